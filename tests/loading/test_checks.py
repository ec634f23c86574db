"""What TransformerLens builds is believed only where it computes what Hugging Face computes."""

import copy
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch
import transformers
from transformer_lens.model_bridge.sources import build_bridge_from_module

import tl_taskneurons as tn
from tl_taskneurons.loading import checks
from tl_taskneurons.loading.small_copies import small_copy
from tl_taskneurons.models import agreement
from tl_taskneurons.models.agreement import Gaps, probe_rows, reference
from tl_taskneurons.models.generation import generate
from tl_taskneurons.models.kvcache import KVCache, distrust_cache

HOOKED = pytest.mark.needs("hooked")
TINY: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing is remembered."""
    monkeypatch.setenv("TL_TASKNEURONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checks, "_remembered", {})
    return tmp_path / "cache" / "checks"


def louder(hf: Any) -> Any:
    """Larger weights, so that what is computed otherwise shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in hf.parameters():
            weight.copy_(0.2 * torch.randn_like(weight) + (weight.ndim == 1))
    return hf.eval()


def openai_gpt() -> Any:
    config = transformers.OpenAIGPTConfig(vocab_size=264, n_embd=32, n_layer=2, n_head=4)
    return louder(transformers.OpenAIGPTLMHeadModel(config))


def cohere() -> Any:
    config = transformers.CohereConfig(vocab_size=264, intermediate_size=48, **TINY)
    return louder(transformers.CohereForCausalLM(config))


def hunyuan() -> Any:
    config = transformers.HunYuanDenseV1Config(
        vocab_size=264, intermediate_size=48, head_dim=8, **TINY
    )
    return louder(transformers.HunYuanDenseV1ForCausalLM(config))


def mpt() -> Any:
    config = transformers.MptConfig(
        vocab_size=264, d_model=32, n_layers=2, n_heads=4, max_seq_len=256
    )
    return louder(transformers.MptForCausalLM(config))


@pytest.mark.parametrize(
    "make",
    [
        openai_gpt,
        # TransformerLens 4.3 builds these two rightly.
        pytest.param(cohere, marks=HOOKED),
        pytest.param(hunyuan, marks=HOOKED),
    ],
)
def test_a_model_that_transformer_lens_builds_wrongly_is_refused_with_the_gap(make: Any):
    with pytest.raises(ValueError, match=r"does not compute what .* differ .* by [0-9.]+ nats"):
        tn.load_model(make(), device="cpu")


def test_a_gap_beyond_the_window_is_found_on_the_small_model(monkeypatch: pytest.MonkeyPatch):
    # As if TransformerLens forgot the window: 16 tokens don't reach it, the small model's do.
    hf = louder(
        transformers.MistralForCausalLM(
            transformers.MistralConfig(
                vocab_size=264,
                intermediate_size=48,
                num_key_value_heads=2,
                sliding_window=64,
                **TINY,
            )
        )
    )
    built = checks.as_bridge

    def forgetful(small: Any, *rest: Any) -> Any:
        for layer in small.model.layers:
            layer.self_attn.sliding_window = None
        small.config.sliding_window = None
        return built(small, *rest)

    assert tn.load_model(copy.deepcopy(hf), device="cpu")
    monkeypatch.setattr(checks, "_remembered", {})
    monkeypatch.setattr(checks, "_recall", lambda key: None)
    monkeypatch.setattr(checks, "as_bridge", forgetful)
    with pytest.raises(ValueError, match=r"nats on inputs beyond any sliding window"):
        tn.load_model(copy.deepcopy(hf), device="cpu")


def test_a_wrong_cache_is_not_used_and_told(monkeypatch: pytest.MonkeyPatch, tokenizer: Any):
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match=r"cache.* by 0\.5 nats"):
        patch.setattr(checks, "_structure", lambda hf, kind: Gaps(0.0, 0.0, 0.0, 0.5))
        model = tn.load_model(helpers.tiny_hf("llama"), tokenizer=tokenizer, device="cpu")
    right = helpers.tiny_lens("llama", tokenizer=tokenizer)
    prompts = [[256, 5, 9], [256, 7], [256, 4, 4, 1, 9]]
    found = tn.view(model)
    assert KVCache(found, 1)._cache is None
    assert generate(found, prompts, closes=lambda _: False, max_new_tokens=6) == generate(
        tn.view(right), prompts, closes=lambda _: False, max_new_tokens=6
    )
    task = helpers.toy_task()
    tables = [
        tn.evaluate_items(m, task, prompt=tn.Prompt(shots=2), share_prefix=share)
        for m in (model, right)
        for share in (True, False)
    ]
    for table in tables[1:]:
        assert (table.loss - tables[0].loss).abs().max() < 1e-5


@HOOKED  # right in 4.3
def test_the_cache_of_mpt_is_not_used():
    hf = mpt()
    rows = probe_rows(264)
    (expected, *_) = reference(hf, rows)
    with pytest.warns(UserWarning, match=r"Mpt.* differ by .* nats"):
        model = tn.load_model(hf, device="cpu")
    (continued,) = generate(tn.view(model), [rows[0]], closes=lambda _: False, max_new_tokens=2)
    assert continued[0] == expected[-1].argmax()
    with torch.no_grad():
        again = model(torch.tensor([[*rows[0], continued[0]]]))
    assert continued[1] == again[0, -1].argmax()


def test_what_was_measured_is_remembered(empty_cache: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    measure = checks._measure
    monkeypatch.setattr(checks, "_measure", lambda *args: calls.append("m") or measure(*args))
    helpers.tiny_lens("llama")
    helpers.tiny_lens("llama", seed=1)
    assert len(calls) == 1
    (file,) = empty_cache.iterdir()
    monkeypatch.setattr(checks, "_remembered", {})  # as in the next process
    helpers.tiny_lens("llama")
    assert len(calls) == 1
    helpers.tiny_lens("llama", rms_norm_eps=1e-3)
    assert len(calls) == 2
    file.write_text("{")  # damaged: measured again
    monkeypatch.setattr(checks, "_remembered", {})
    helpers.tiny_lens("llama")
    assert len(calls) == 3


@pytest.mark.parametrize("kind", ["bridge", pytest.param("hooked", marks=HOOKED)])
def test_weights_are_compared_once(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
):
    runs: list[str] = []
    ran = checks.reference
    monkeypatch.setattr(checks, "reference", lambda *args: runs.append("r") or ran(*args))

    def load(dtype: str = "float32") -> int:
        runs.clear()
        monkeypatch.setattr(checks, "_remembered", {})  # as in the next process
        model = tn.load_model(folder, kind=kind, dtype=dtype, device="cpu")
        assert repr(tn.view(model)).endswith("checked)")
        return len(runs)

    folder = tmp_path / "model"
    hf = helpers.tiny_hf("llama")
    hf.save_pretrained(folder)
    assert [load(), load(), load("bfloat16"), load("bfloat16")] == [2, 0, 2, 0]
    for file in empty_cache.iterdir():  # damaged: compared again
        file.write_text('["agreed"]')
    assert [load(), load()] == [2, 0]
    with torch.no_grad():
        hf.model.layers[1].mlp.up_proj.weight[3, 4] += 1.0
    hf.save_pretrained(folder)  # other weights under the same name
    assert [load(), load()] == [1, 0]


def test_a_cache_folder_that_cannot_be_written_costs_a_comparison(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    place = tmp_path / "file"
    place.write_text("no folder")
    monkeypatch.setenv("TL_TASKNEURONS_CACHE", str(place))
    helpers.tiny_hf("llama").save_pretrained(tmp_path / "model")
    for _ in range(2):
        assert tn.load_model(tmp_path / "model", device="cpu")


def test_a_refused_model_is_not_remembered_as_right(tmp_path: Path):
    openai_gpt().save_pretrained(tmp_path / "model")
    for _ in range(2):
        with pytest.raises(ValueError, match="does not compute"):
            tn.load_model(tmp_path / "model", device="cpu")


@pytest.mark.parametrize("name", helpers.ARCHITECTURES)
def test_small_models_are_small_and_draw_nothing(name: str):
    hf = helpers.tiny_hf(name)
    state = torch.random.get_rng_state()
    small = small_copy(hf)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert type(small) is type(hf)
    assert sum(p.numel() for p in small.parameters()) < 200_000
    for weight_name, weight in small.named_parameters():
        assert weight.std() > 0, weight_name


def test_a_small_model_of_a_large_configuration():
    config = transformers.Gemma2Config(
        num_hidden_layers=26, sliding_window=4096, vocab_size=256_000
    )
    with torch.device("meta"):
        large = transformers.Gemma2ForCausalLM(config)
    small = small_copy(large).config
    assert (small.num_hidden_layers, small.sliding_window, small.vocab_size) == (2, 8, 256)
    assert set(small.layer_types) == {"sliding_attention", "full_attention"}
    assert small.hidden_size // small.num_attention_heads == 2304 // 8
    assert large.config.num_hidden_layers == 26


def own_bridge(hf: Any) -> Any:
    return build_bridge_from_module(hf, type(hf).__name__, hf_config=hf.config, tokenizer=None)


@pytest.mark.parametrize(
    ("broken", "cause"),
    [
        ("loading.checks.reference", "can't be run .RuntimeError: no room"),
        ("loading.small_copies._small_config", "can't be made small .RuntimeError: no room"),
    ],
)
def test_what_could_not_be_checked_is_told(
    monkeypatch: pytest.MonkeyPatch, broken: str, cause: str
):
    def fail(*_: Any) -> Any:
        raise RuntimeError("no room")

    hf = helpers.tiny_hf("llama")
    model, original = helpers.tiny_lens("llama"), checks.take_down(hf)
    with monkeypatch.context() as patch:
        patch.setattr(f"tl_taskneurons.{broken}", fail)
        patch.setattr(checks, "_remembered", {})
        patch.setattr(checks, "_recall", lambda key: None)
        with pytest.warns(UserWarning, match=f"16 tokens only, not beyond a sliding.*{cause}"):
            checks.check_loaded(model, hf, original, "bridge")
    assert "checked but for windows, padding and cache" in repr(tn.view(model))
    assert tn.check_model(model, hf).cached < 1e-4
    assert "checked but" not in repr(tn.view(model))


def test_a_model_of_ones_own_is_checked_on_demand():
    hf = helpers.tiny_hf("gpt2")
    model = own_bridge(copy.deepcopy(hf))
    assert "unchecked: see check_model" in repr(tn.view(model))
    for gaps in (tn.check_model(model), tn.check_model(model, hf)):
        assert max(gaps.plain, gaps.left, gaps.right, gaps.cached) < 1e-4
    assert repr(tn.view(model)).endswith("checked)")
    assert "unchecked" not in repr(tn.view(model))
    assert "unchecked" not in repr(tn.view(helpers.tiny_lens("gpt2")))
    with torch.no_grad():
        model.original_model.transformer.ln_f.weight.mul_(1.5)
    with pytest.raises(ValueError, match=r"nats on inputs .*, against its Hugging Face model"):
        tn.check_model(model, hf)
    with pytest.raises(ValueError, match="does not compute"):
        tn.check_model(own_bridge(openai_gpt()))


@HOOKED
def test_a_hooked_transformer_of_ones_own():
    hf = helpers.tiny_hf("llama")
    model = helpers.tiny_lens("llama", "hooked")
    for gaps in (tn.check_model(model), tn.check_model(model, hf)):
        assert max(gaps.plain, gaps.left, gaps.right, gaps.cached) < 1e-4
    with torch.no_grad():
        model.blocks[1].mlp.W_out[0] += 1.0
    with pytest.raises(ValueError, match="against its Hugging Face model"):
        tn.check_model(model, hf)


def test_a_cache_that_is_distrusted_keeps_every_row():
    model = helpers.tiny_lens("llama")
    distrust_cache(model)
    cache = KVCache(tn.view(model), 1)
    ids, yes = torch.tensor([[1, 2, 3]]), torch.ones((1, 3), dtype=torch.bool)
    first = cache.extend(ids, yes, yes)
    both = cache.repeat(2)
    more = torch.tensor([[4], [5]])
    logits = both.extend(more, torch.ones_like(more).bool(), torch.ones_like(more).bool())
    with torch.no_grad():
        for row, token in enumerate((4, 5)):
            whole = model(torch.tensor([[1, 2, 3, token]]))[0]
            assert (first - whole[:3]).abs().max() < 1e-5
            assert (logits[row] - whole[-1]).abs().max() < 1e-5


def test_a_model_in_half_precision_is_judged_by_its_mean_gap(monkeypatch: pytest.MonkeyPatch):
    hf: Any = louder(helpers.tiny_hf("llama")).bfloat16()
    model = own_bridge(copy.deepcopy(hf))
    with torch.no_grad():
        model.original_model.lm_head.weight[7] *= 2  # one token's logits of many
    rows = agreement.probe_rows(hf.config.vocab_size)
    assert agreement.plain_gap(model, rows, agreement.reference(hf, rows)) > 0.25
    gaps = tn.check_model(model, hf)
    assert 1e-3 < gaps.plain < 0.25
    # Small models are in float32, whatever the user's is.
    monkeypatch.setattr(checks, "_structure", lambda hf, kind: Gaps(0.1, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"0\.1 nats .* against a small model"):
        tn.check_model(model)
