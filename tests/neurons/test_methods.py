"""Methods, selections and readings of one's own, and what is told of those that are wrong."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from micro import item, lens, words

import tl_taskneurons as tn
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.neurons.ablation import constants
from tl_taskneurons.neurons.methods import ABLATIONS, CONTRASTS, METHODS, SELECTIONS
from tl_taskneurons.neurons.metrics import METRICS
from tl_taskneurons.neurons.settings import ItemOptions, ScoreOptions, ScoreSettings
from tl_taskneurons.tasks.prompts import encode


@pytest.fixture
def own() -> Iterator[None]:
    """Forget what a test registers."""
    tables: tuple[Any, ...] = (METHODS, SELECTIONS, CONTRASTS, ABLATIONS, METRICS)
    before = [dict(table._choices) for table in tables]
    yield
    for table, choices in zip(tables, before, strict=True):
        table._choices = choices


@pytest.mark.usefixtures("own")
def test_a_method_of_ones_own_in_five_lines(tokenizer: Any):
    @tn.METHODS.register("largest", "mean over examples of the largest |activation|")
    def largest(run: Any) -> None:
        run.watch(lambda layer, activation: run.add(layer, (activation.abs() * run.real).amax(1)))

    model, task = lens("llama", "bridge", tokenizer), words(6)
    found = tn.score_neurons(model, task, "largest", token_budget=80)
    # Against plain TransformerLens, text by text.
    expected = torch.zeros_like(found.values)
    for one in encode(task, tokenizer, split="train").items:
        _, cache = model.run_with_cache(torch.tensor([[*one.prompt, *one.answer]]))
        for layer in range(len(expected)):
            expected[layer] += cache[f"blocks.{layer}.mlp.hook_post"][0].abs().amax(0)
    torch.testing.assert_close(found.values, expected / len(task.train), rtol=1e-4, atol=1e-6)
    assert str(tn.METHODS["largest"]) == "mean over examples of the largest |activation|"
    together = tn.score_tasks(model, [task], "largest")[task.name]
    torch.testing.assert_close(together.values, found.values)
    report = tn.faithfulness(model, task, "largest", n_random=6, n_top=4, limit=2)
    assert report.summary["method"].tolist() == ["largest"]
    with pytest.raises(ValueError, match="There is a method called 'largest' already"):
        tn.METHODS.register("largest", "again")(largest)


@pytest.mark.usefixtures("own")
def test_a_wrong_method_is_told_by_name(tokenizer: Any):
    model, task = lens("gpt2", "bridge", tokenizer), words(3)
    wrong = {
        "narrow": (lambda run, layer, a: run.add(layer, a.sum()), "'narrow' gives .* shape \\(\\)"),
        "broken": (lambda run, layer, a: run.add(layer, a.sum(1) / 0 * 0), "'broken' gives neuron"),
        "silent": (lambda run, layer, a: None, "'silent' gave no scores for layer 0"),
    }
    for name, (what, message) in wrong.items():

        @tn.METHODS.register(name, "is wrong")
        def method(run: Any, what: Any = what) -> None:
            run.watch(lambda layer, activation: what(run, layer, activation))

        with pytest.raises(ValueError, match=message):
            tn.score_neurons(model, task, name)
    tn.METHODS.register("flat", "is wrong", data=False)(lambda view, settings: torch.zeros(3))
    with pytest.raises(ValueError, match="'flat' gives scores of shape \\(3,\\)"):
        tn.score_neurons(model, task, "flat")


@pytest.mark.usefixtures("own")
def test_a_selection_of_ones_own():
    @tn.SELECTIONS.register("first", "the first neuron of the first layer")
    def first(scores: Any, fraction: float) -> Any:
        return {name: own.top(n=1) for name, own in scores.items()}

    scores = {name: tn.NeuronScores(torch.rand(2, 3), "m", name) for name in "ab"}
    assert [len(chosen) for chosen in tn.select(scores, "first").values()] == [1, 1]


@pytest.mark.usefixtures("own")
def test_an_ablation_and_a_metric_of_ones_own_by_name(tokenizer: Any):
    @tn.METRICS.register("first_logit", "logit of the answer's first token", unit="logits")
    def first_logit(logits: torch.Tensor, item: Any) -> torch.Tensor:
        return logits[0, item.answer[0]]

    @tn.ABLATIONS.register("tenth", "a tenth in place of every activation")
    def tenth(model_view: ModelView, _batches: Any, _layers: Any) -> Any:
        replacement = constants(model_view, torch.full(model_view.shape, 0.1))
        return lambda _batch: replacement

    model, task = lens("llama", "bridge", tokenizer), words(3)
    tenths = torch.full(tn.view(model).shape, 0.1)
    found = tn.score_neurons(model, task, metric="first_logit", ablation="tenth", signed=True)
    again = tn.score_neurons(model, task, metric=first_logit, ablation=tenths, signed=True)
    assert torch.equal(found.values, again.values)
    assert tn.METRICS["first_logit"].unit == "logits"
    with tn.deactivate(model, found.top(n=9), ablation="tenth"):
        by_name = tn.evaluate_items(model, task, split="train", metric="log_prob")
    with tn.deactivate(model, found.top(n=9), ablation=tenths):
        by_value = tn.evaluate_items(model, task, split="train", metric="log_prob")
    assert by_name["score"].equals(by_value["score"])


def test_options_are_checked_and_said_once(tokenizer: Any):
    model, task = lens("gpt2", "bridge", tokenizer), words(3)
    with pytest.raises(TypeError, match="score_neurons has no option 'limits'; did you mean"):
        tn.score_neurons(model, task, limits=3)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="score_items has no option 'split'"):
        tn.score_items(model, [item((1,), (2,))], split="test")  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="evaluate has no option 'generate'; .*'generation'"):
        tn.evaluate(model, task, generate=True)  # pyright: ignore[reportCallIssue]
    fields = ScoreSettings.__dataclass_fields__
    assert {*ScoreOptions.__annotations__} == {*fields}
    assert {*ItemOptions.__annotations__} < {*fields}


def test_the_tables_load_no_torch():
    code = "import sys, tl_taskneurons.neurons.methods as m; m.METHODS, m.SELECTIONS"
    code += "; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)
