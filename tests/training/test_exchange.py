"""Neurons' deltas from two checkpoints, and as adapters that ``peft`` loads."""

from pathlib import Path
from typing import Any

import helpers
import pytest
import torch

from tl_taskneurons import score_neurons
from tl_taskneurons.models.view import view
from tl_taskneurons.training.comparisons import finetune_all
from tl_taskneurons.training.deltas import NeuronDelta
from tl_taskneurons.training.finetune import finetune
from tl_taskneurons.training.settings import Training

IDS = torch.arange(40, 60).reshape(2, 10)


def trained(model: Any) -> NeuronDelta:
    task = helpers.toy_task()
    neurons = score_neurons(model, task, "random").top(fraction=0.2)
    return finetune(model, task, neurons, Training(lr=1e-2, steps=3, batch_size=4))


# peft asks transformers for a name that transformers has replaced.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "gemma", "qwen2"])
def test_peft_computes_what_the_delta_does(name: str, tokenizer: Any, tmp_path: Path):
    peft = pytest.importorskip("peft")
    plain, model = helpers.tiny_hf(name), helpers.tiny_lens(name, tokenizer=tokenizer)
    delta = trained(model)
    folder = delta.to_peft(tmp_path / "adapter", model)
    with torch.no_grad(), delta.applied(model):
        wanted = model(IDS)
    with torch.no_grad():
        assert (plain(IDS).logits - wanted).abs().max() > 1e-2
        adapted = peft.PeftModel.from_pretrained(plain, folder).eval()
        torch.testing.assert_close(adapted(IDS).logits, wanted, atol=1e-5, rtol=0)
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(IDS).logits, wanted, atol=1e-5, rtol=0)
    with pytest.raises(FileExistsError, match="new folder"):
        delta.to_peft(folder, model)


def test_adapters_that_would_be_wrong_are_refused(tokenizer: Any, tmp_path: Path):
    fused = helpers.tiny_lens("phi3", tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"part of a fused matrix.*use merge"):
        trained(fused).to_peft(tmp_path / "a", fused)
    llama = helpers.tiny_lens("llama", tokenizer=tokenizer)
    other = helpers.tiny_lens("llama", seed=1, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=view(other).fingerprint):
        trained(llama).to_peft(tmp_path / "a", other)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_delta_between_two_checkpoints_is_the_one_that_was_trained(name: str, tokenizer: Any):
    base, tuned = (helpers.tiny_lens(name, tokenizer=tokenizer) for _ in range(2))
    delta = trained(base)
    delta.apply(tuned)
    found = NeuronDelta.between(base, tuned)
    assert found.neurons == delta.neurons and found.fingerprint == view(base).fingerprint
    for key, value in delta.trained.items():
        assert torch.equal(found.trained[key], value)
        assert torch.equal(found.base[key], delta.base[key])
    found.undo(tuned)
    with pytest.raises(ValueError, match="nothing differs"):
        NeuronDelta.between(base, tuned)
    finetune_all(base, helpers.toy_task(), None, Training(lr=1e-2, steps=1)).apply(tuned)
    with pytest.raises(ValueError, match=r"more than their neurons.*partial=True"):
        NeuronDelta.between(base, tuned)
    assert len(NeuronDelta.between(base, tuned, partial=True).neurons) > len(delta.neurons)
    with pytest.raises(ValueError, match="one architecture"):
        NeuronDelta.between(base, helpers.tiny_lens("bloom", tokenizer=tokenizer))
