import pandas as pd
import pytest
import torch
from helpers import HAS_HOOKED, VOCAB, save_tiny, tiny_hf, tiny_lens

from tl_taskneurons.cli import app as cli
from tl_taskneurons.experiments import costs
from tl_taskneurons.experiments.costs import JOBS, Cost, Load, frame, n_weights, plan, with_layers
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.scoring import score_batches
from tl_taskneurons.runtime.memory import peak_of_tensors
from tl_taskneurons.tasks.batches import make_batches
from tl_taskneurons.tasks.prompts import Item

KINDS = ("bridge", "hooked") if HAS_HOOKED else ("bridge",)


def items(n: int = 12, length: int = 20) -> list[Item]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, VOCAB, (n, length), generator=generator).tolist()
    return [Item(i, tuple(row), (1, 2), (3,)) for i, row in enumerate(rows)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_the_memory_of_detection_is_that_of_the_whole_model(name, kind):
    layers = {"num_hidden_layers": 8} if name == "llama" else {"n_layer": 8}
    config = tiny_hf(name, **layers).config
    found = {c.job: c for c in plan(config, items(), Load(token_budget=128), kind=kind, repeats=1)}
    model_view = view(tiny_lens(name, kind, **layers))
    batch = next(iter(make_batches(items(), token_budget=128)))
    score_batches(model_view, [batch], "grad_act")
    with peak_of_tensors(model_view.device) as peak:
        score_batches(model_view, [batch], "grad_act")
    assert found["detection"].peak == pytest.approx(peak.bytes, rel=0.05)


def test_every_job_is_counted_once():
    config = tiny_hf("llama").config
    found = plan(config, items(12, 20), Load(44, batch_size=4, steps=7), repeats=1)
    assert [cost.job for cost in found] == list(JOBS)
    evaluation, detection, training = found
    assert (evaluation.n_batches, detection.n_batches, training.n_batches) == (6, 6, 7)
    assert evaluation.n_tokens == detection.n_tokens == 12 * 22
    assert training.n_tokens == 7 * 4 * 23  # the end of the answer is learnt too
    assert all(cost.seconds > 0 and cost.peak > 0 for cost in found)
    assert training.memory == training.weights + training.peak


def test_more_layers_need_more_memory():
    small = tiny_hf("llama", num_hidden_layers=4).config
    large = with_layers(small, 40)
    few, many = plan(small, items(), repeats=1), plan(large, items(), repeats=1)
    for low, high in zip(few, many, strict=True):
        assert low.weights < high.weights
    for low, high in zip(few[1:], many[1:], strict=True):
        assert low.peak < high.peak


def test_weights_are_counted_without_being_made():
    model = tiny_hf("bloom")
    assert n_weights(model.config) == sum(p.numel() for p in model.parameters())
    cost = plan(model.config, items(), dtype="bfloat16", repeats=1)[0]
    assert cost.weights == 2 * n_weights(model.config)


def test_fewer_layers_leave_the_config_as_it_was():
    config = tiny_hf("qwen2", num_hidden_layers=3).config
    changed = with_layers(config, 1)
    assert (config.num_hidden_layers, changed.num_hidden_layers) == (3, 1)
    assert len(changed.layer_types) == 1 and len(config.layer_types) == 3


def test_a_straight_line_goes_through_both_sizes():
    assert costs._at(10, [1, 4], [3.0, 6.0]) == 12.0
    assert costs._at(10, [1, 4], [3.0, 2.0]) == 2.0  # noise never makes more layers cheaper
    assert costs._at(1, [1], [3.0]) == 3.0


def test_the_table_has_a_line_for_each_job():
    table = frame([Cost("detection", 2, 1000, 4.0, 2**30, 2**29)])
    assert table.to_dict("records") == [
        {
            "job": "detection", "batches": 2, "tokens": 1000, "seconds": 4.0,
            "tokens_per_s": 250.0, "weights_gib": 1.0, "peak_gib": 0.5, "memory_gib": 1.5,
        }
    ]  # fmt: skip
    assert isinstance(table, pd.DataFrame)


def test_no_examples_are_an_error():
    with pytest.raises(ValueError, match="no examples"):
        plan(tiny_hf("llama").config, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"token_budget": 0}, "token_budget is 0"),
    ],
)
def test_bad_sizes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        plan(tiny_hf("llama").config, items(), Load(**options))


def test_an_unknown_dtype_is_named():
    with pytest.raises(ValueError, match="unsupported dtype 'bf16'"):
        plan(tiny_hf("llama").config, items(), dtype="bf16")


def test_the_command_says_what_a_task_costs(tmp_path, capsys):
    folder = save_tiny("llama", tmp_path / "tiny")
    words = ["plan", "--model", str(folder), "--tasks", "present_past", "--limit", "6"]
    assert cli.main([*words, "--shots", "0", "--steps", "3"]) == 0
    said = capsys.readouterr().out
    for job in JOBS:
        assert job in said
    assert "6 examples" in said


def test_an_unknown_model_is_named(capsys):
    assert cli.main(["plan", "--model", "no-such-model", "--tasks", "present_past"]) == 2
    assert "no-such-model" in capsys.readouterr().err
