"""Several tasks in one pass, some layers alone, gradient checkpointing, and too little memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import helpers
import pytest
import torch

import tl_taskneurons as tn
from tl_taskneurons.evaluation import answers
from tl_taskneurons.models.checkpointing import recomputes
from tl_taskneurons.models.positions import Places
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons import capture
from tl_taskneurons.neurons.attribution import item_methods
from tl_taskneurons.neurons.scoring import score_batches
from tl_taskneurons.neurons.settings import ScoreSettings
from tl_taskneurons.runtime.memory import peak_of_tensors
from tl_taskneurons.tasks import batches
from tl_taskneurons.tasks.batches import make_batches
from tl_taskneurons.tasks.prompts import Item
from tl_taskneurons.tasks.task import Example, Task

KINDS = ["bridge", pytest.param("hooked", marks=pytest.mark.needs("hooked"))]
NAMES = ["llama", "bloom"]
DEEP = {"llama": {"num_hidden_layers": 12}, "bloom": {"n_layer": 12}}


def tasks() -> list[Task]:
    """Two tasks that share examples, and one of another length with an example twice."""
    first = helpers.toy_task(7)
    shared = replace(first, name="shared", train=(*first.train[2:5], Example("zz", "even")))
    long = tuple(Example("w" * (9 + i), "odd") for i in range(3))
    return [first, shared, replace(first, name="long", train=(*long, long[0]))]


@pytest.fixture(params=[(name, kind) for name in NAMES for kind in ("bridge", "hooked")],
                ids=lambda pair: "-".join(pair))  # fmt: skip
def model(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    name, kind = request.param
    if kind == "hooked" and not helpers.HAS_HOOKED:
        kind = "bridge"
    return helpers.tiny_lens(name, kind, tokenizer=tokenizer)


@pytest.mark.parametrize("method", item_methods())
def test_one_pass_gives_the_scores_of_one_task_at_a_time(method: str, model: Any):
    listed = tasks()[: 2 if tn.METHODS.find(method).whole else 3]  # the last has one class
    together = tn.score_tasks(model, listed, method, steps=2, token_budget=150)
    for task in listed:
        alone = tn.score_neurons(model, task, method, steps=2)
        found = together[task.name]
        assert torch.allclose(found.values, alone.values, rtol=1e-4, atol=1e-7)
        assert found.values.abs().max() > 0
        assert (found.fingerprint, found.name, found.method) == (
            alone.fingerprint, task.name, method,
        )  # fmt: skip
        assert found.info == alone.info


def test_what_tasks_share_runs_once(tokenizer: Any, monkeypatch: pytest.MonkeyPatch):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    seen: list[int] = []
    real = capture.first_order

    def counted(run: capture.BatchPass) -> None:
        seen.append(len(run.batch.index))
        real(run)

    monkeypatch.setattr(capture, "first_order", counted)
    tn.score_tasks(model, tasks(), token_budget=10_000)
    # 7 of the first, 1 new one of the second, 3 of the third; all in one batch.
    assert seen == [11]


def test_functions_of_the_users_see_the_numbers_that_examples_have_in_their_split(model: Any):
    def weighted(logits: torch.Tensor, item: Item) -> torch.Tensor:
        return logits.log_softmax(-1).max() * (1 + item.index)

    def by_number(places: Places) -> torch.Tensor:
        odd = torch.tensor([number % 2 == 1 for number in places.examples], device="cpu")
        return torch.where(odd[:, None], places.last_prompt, places.real)

    questions: list[dict[str, Any]] = [{"metric": weighted}, {"positions": by_number}]
    for asked in questions:
        together = tn.score_tasks(model, tasks(), **asked)
        for task in tasks():
            alone = tn.score_neurons(model, task, **asked).values
            assert torch.allclose(together[task.name].values, alone, rtol=1e-4, atol=1e-7)


def test_no_task_and_methods_without_data_are_refused(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="no tasks"):
        tn.score_tasks(model, [])
    with pytest.raises(ValueError, match="Unknown method 'exact'"):
        tn.score_tasks(model, tasks(), "exact")


# --- some layers alone ---


@pytest.mark.parametrize("method", item_methods())
def test_chosen_layers_score_as_in_a_full_run_and_the_others_0(method: str, model: Any):
    task = tasks()[0]
    full = tn.score_neurons(model, task, method, steps=2).values
    part = tn.score_neurons(model, task, method, steps=2, layers=[1])
    assert torch.allclose(part.values[1], full[1], rtol=1e-5, atol=1e-8)
    assert not part.values[0].any()
    assert part.info["layers"] == [1]


def test_layers_below_the_lowest_take_no_part_in_the_backward_pass(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer, num_hidden_layers=8)
    batches = list(make_batches([Item(0, tuple(range(60)), (1, 2), ())]))
    model_view = view(model)
    peaks = []
    for layers in (None, [7]):
        with peak_of_tensors(model_view.device) as peak:
            score_batches(model_view, batches, "grad_act", settings=ScoreSettings(layers=layers))
        peaks.append(peak.bytes)
    assert peaks[1] < 0.5 * peaks[0]


@pytest.mark.parametrize("layers", [[], [2], [-1]])
def test_layers_that_are_not_there_are_refused(layers: list[int], tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="has the layers 0 to 1"):
        tn.score_neurons(model, tasks()[0], layers=layers)


def test_methods_without_layers_say_so(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="layers=\\[0\\] with method 'weight_norm'"):
        tn.score_neurons(model, tasks()[0], "weight_norm", layers=[0])


# --- gradient checkpointing ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_changes_memory_and_nothing_else(
    name: str, kind: str, tokenizer: Any
):
    model = helpers.tiny_lens(name, kind, tokenizer=tokenizer, **DEEP[name])
    model_view = view(model)
    rows = torch.arange(4 * 60).remainder(250).reshape(4, 60).tolist()
    batches = list(make_batches([Item(i, tuple(row), (1, 2), ()) for i, row in enumerate(rows)]))
    before = [vars(block).get("forward") for block in _inner_blocks(model)]
    integrated = partial(
        score_batches, model_view, batches, "integrated_gradients", settings=ScoreSettings(steps=1)
    )
    with peak_of_tensors(model_view.device) as plain:
        expected = score_batches(model_view, batches, "grad_act")
    with tn.gradient_checkpointing(model), peak_of_tensors(model_view.device) as saved:
        assert recomputes(model_view)
        found = score_batches(model_view, batches, "grad_act")
    assert torch.equal(found, expected)
    assert saved.bytes < 0.75 * plain.bytes
    with tn.gradient_checkpointing(model):
        found = integrated()
    assert torch.equal(found, integrated())
    assert [vars(block).get("forward") for block in _inner_blocks(model)] == before
    assert not recomputes(model_view)


def _inner_blocks(model: Any) -> list[Any]:
    return [getattr(block, "original_component", block) for block in model.blocks]


@pytest.mark.parametrize("kind", KINDS)
def test_training_under_gradient_checkpointing_is_the_same(kind: str, tokenizer: Any):
    model = helpers.tiny_lens("llama", kind, tokenizer=tokenizer)
    task = tasks()[0]
    neurons = tn.score_neurons(model, task).top(fraction=0.3)
    settings = tn.Training(lr=1e-2, steps=3, batch_size=4)
    plain = tn.finetune(model, task, neurons, settings)
    with tn.gradient_checkpointing(model):
        saved = tn.finetune(model, task, neurons, settings)
        evaluated = tn.evaluate_items(model, task)
    for name, value in plain.trained.items():
        assert torch.equal(saved.trained[name], value), name
    assert evaluated.equals(tn.evaluate_items(model, task))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "asked",
    [
        {"positions": slice(-2, None)},
        {"positions": "answer"},
        {"positions": lambda places: places.index > 2},
        {"ablation": "resample"},
    ],
)
def test_interventions_act_alike_under_gradient_checkpointing(
    asked: dict[str, Any], tokenizer: Any
):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    task = helpers.toy_task()  # of many lengths
    silenced = [(0, j) for j in range(40)]
    settings = tn.Training(lr=1e-2, steps=2)
    with tn.deactivate(model, silenced, **asked):
        scores = tn.score_neurons(model, task)
        delta = tn.finetune(model, task, [(0, 45), (1, 3)], settings)
        with tn.gradient_checkpointing(model):
            assert tn.score_neurons(model, task).values.equal(scores.values)
            found = tn.finetune(model, task, [(0, 45), (1, 3)], settings)
    assert all(found.trained[name].equal(value) for name, value in delta.trained.items())


def test_gradient_checkpointing_opens_once_and_closes_after_an_error(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    with (
        pytest.raises(RuntimeError, match="open .* already"),
        tn.gradient_checkpointing(model),
        tn.gradient_checkpointing(model),
    ):
        pass
    assert not recomputes(view(model))


# --- too little memory ---


@contextmanager
def memory_for(tokens: int, module: Any, name: str, at: int = 1) -> Iterator[list[int]]:
    """Let a function of a module run out of memory where its batch has more tokens."""
    real, ran = getattr(module, name), []

    def limited(*args: Any, **kwargs: Any) -> Any:
        batch = getattr(args[at], "batch", args[at])
        result = real(*args, **kwargs)
        if batch.tokens.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        ran.append(batch.tokens.numel())
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, limited)
        yield ran


@pytest.mark.parametrize("method", ["grad_act", "activation"])
def test_scores_are_right_when_memory_runs_out_in_the_middle(method: str, tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    task = helpers.toy_task(20)
    expected = tn.score_neurons(model, task, method).values
    name = "first_order" if method == "grad_act" else "sizes"
    with memory_for(300, capture, name, at=0) as ran, pytest.warns(RuntimeWarning, match="budget"):
        found = tn.score_neurons(model, task, method, token_budget=2000).values
    # The batch that failed had added to every layer before it did.
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-8)
    assert len(ran) > 1 and max(ran) <= 300


@pytest.mark.parametrize("metric", ["accuracy", "exact_match"])
def test_evaluation_goes_on_in_halves(metric: str, tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    task = replace(helpers.toy_task(4), test=helpers.toy_task(12).train, metric=metric)
    expected = tn.evaluate_items(model, task)
    with (
        memory_for(200, answers, "answer_logits") as ran,
        pytest.warns(RuntimeWarning, match="Not enough memory"),
    ):
        found = tn.evaluate_items(model, task, share_prefix=False, token_budget=2000)
    assert found["score"].tolist() == expected["score"].tolist()
    assert torch.allclose(
        torch.tensor(found["loss"].tolist()), torch.tensor(expected["loss"].tolist()), atol=1e-5
    )
    assert ran and max(ran) <= 200


def test_generation_goes_on_in_halves(tokenizer: Any, monkeypatch: pytest.MonkeyPatch):
    from tl_taskneurons.models import generation

    model_view = view(helpers.tiny_lens("llama", tokenizer=tokenizer))
    prompts = [[65 + i] * (3 + i) for i in range(7)]

    def closes(ids: Any) -> bool:
        return ids[-1] == 10

    expected = generation.generate(model_view, prompts, closes=closes, max_new_tokens=4)
    real, sizes = generation._generate_batch, []

    def limited(view: Any, rows: Any, *rest: Any) -> Any:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        sizes.append(len(rows))
        return real(view, rows, *rest)

    monkeypatch.setattr(generation, "_generate_batch", limited)
    with pytest.warns(RuntimeWarning, match="Not enough memory"):
        found = generation.generate(model_view, prompts, closes=closes, max_new_tokens=4)
    assert found == expected
    assert sum(sizes) == 7


def test_a_gpu_gets_larger_batches_and_the_user_decides():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert batches.token_budget_for(cpu) < batches.token_budget_for(gpu)
    assert batches.token_budget_for(gpu, 77) == 77


def test_a_budget_of_0_is_refused(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="token_budget is 0"):
        tn.score_neurons(model, tasks()[0], token_budget=0)
