import math
import warnings
from dataclasses import replace
from typing import Any

import micro
import pytest
import torch

import tl_taskneurons as tn
from tl_taskneurons.analysis.probe import Probe, Toll, UnableWarning
from tl_taskneurons.analysis.question import halves, spread
from tl_taskneurons.analysis.search import GoalNotReachedWarning, _Search
from tl_taskneurons.builtin.planted import planted_model
from tl_taskneurons.models.view import view
from tl_taskneurons.tasks.prompts import encode
from tl_taskneurons.tasks.task import Example, Task

QUESTION = tn.Question(n_score=16, n_held=16, n_spared=16)
# Everything must go: a smaller set leaves some of the answers right.
ALL = tn.Limits(goal=1.0, budget=12, outside=(0.05,))


def planted(gated=True, overlap=0.0):
    found = planted_model(2, 6, overlap=overlap, gated=gated, n_layers=2, d_mlp=24, distractors=8)
    model = tn.load_model(found.model, tokenizer=found.tokenizer, device="cpu")
    return model, found


@pytest.fixture(scope="module")
def gated():
    return planted()


def test_it_takes_planted_neurons_and_no_others(gated):
    model, found = gated
    task, other = found.tasks
    result = tn.find_neurons(model, task, other, limits=ALL, question=QUESTION)
    assert result.reached and result.toll.taken >= 1.0
    assert result.toll.harm == result.toll.worst == 0.0
    assert torch.equal(result.neurons.mask, found.truth[task.name])
    assert result.neurons.name == task.name and result.neurons.info["goal"] == 1.0
    with tn.deactivate(model, result.neurons):
        after = tn.evaluate(model, [task, other])["value"].tolist()
    assert after[0] <= 0.55 and after[1] == 1.0  # chance or less, and as it was


@pytest.mark.parametrize("is_gated", [True, False])
def test_by_the_answer_s_margin_it_finds_the_planted_neurons_exactly(is_gated, gated):
    """Every planted neuron adds to the margin, so taking all of it takes all of them."""
    model, found = gated if is_gated else planted(gated=False)
    task, other = found.tasks
    question = replace(QUESTION, metric="logit_diff")
    limits = tn.Limits(goal=0.999, budget=12, outside=(0.05,))
    result = tn.find_neurons(model, task, other, limits=limits, question=question)
    assert torch.equal(result.neurons.mask, found.truth[task.name])
    assert f"6 neurons (12.500%) take 100% of '{task.name}'" in str(result)


def test_the_curve_tells_each_set_that_was_tried(gated):
    model, found = gated
    task, other = found.tasks
    question = replace(QUESTION, metric="logit_diff")
    limits = tn.Limits(goal=0.999, budget=12, outside=(0.05,), checks=3)
    result = tn.find_neurons(model, task, other, limits=limits, question=question)
    grown = result.curve[result.curve["step"] == "grow"]
    assert grown["n_neurons"].tolist() == [1, 2, 4, 8]
    assert grown["taken"].is_monotonic_increasing and grown["kept"].all()
    pruned = result.curve[result.curve["step"] == "prune"]
    assert len(pruned) == 3  # as many as checks allow
    for number in (4, 8):
        row = grown[grown["n_neurons"] == number].iloc[0]
        assert row["harm"] == 0.0 and row["worst_task"] == ""
    figure = result.plot()
    assert len(figure.axes) == 2
    assert result.plot(ax=figure.axes[0]) is figure


def test_a_goal_out_of_reach_gives_the_best_and_says_how_far(gated):
    model, found = gated
    task, other = found.tasks
    question = replace(QUESTION, metric="logit_diff")
    limits = tn.Limits(goal=0.999, budget=2, outside=(0.05,))
    with pytest.warns(GoalNotReachedWarning, match=r"goal of 100% wasn't reached: 2 neurons"):
        result = tn.find_neurons(model, task, other, limits=limits, question=question)
    assert not result.reached and 0.1 < result.toll.taken < 0.9
    assert len(result.neurons) == 2 and set(result.order) == set(result.neurons)


class Ledger(Probe):
    """A probe with written answers: neuron j takes ``takes[j]`` and harms ``harms[j]``."""

    plain = 1.0

    def __init__(self, model: Any, takes: list[float], harms: list[float]) -> None:
        self.model, self.takes = model, torch.tensor([takes])
        self.harms = torch.tensor([harms])
        self.asked_for: list[int] = []  # how many neurons were silenced when effects were taken

    def effects(self, silenced: tn.NeuronSet) -> torch.Tensor:
        self.asked_for.append(len(silenced))
        return self.takes

    def toll(self, silenced: tn.NeuronSet, allows: Any = None, least: float | None = None) -> Toll:
        taken = round(float(self.takes[silenced.mask].sum()), 6)
        harm = round(float(self.harms[silenced.mask].sum()), 6)
        return Toll(1 - taken, taken, 0.0, harm, harm, "other" if harm else "", 0.0)


def searched(model: Any, takes: list[float], harms: list[float], **limits: Any) -> Any:
    probe: Any = Ledger(model, takes, harms)
    none = torch.zeros(1, len(takes), dtype=torch.bool)
    return _Search(probe, tn.Limits(budget=len(takes), **limits), 0.01, none).run()


def test_a_round_that_harms_is_tried_by_halves_and_the_culprit_left_out():
    model = micro.two_layers()
    search = searched(model, [0.3, 0.25, 0.2, 0.15, 0.1], [0, 0, 0.5, 0, 0], goal=0.7)
    assert search.order == [0, 1, 3]
    tried = [(row["n_neurons"], row["kept"]) for row in search.rows if row["step"] == "grow"]
    # 0; then 1; then 2 and 3, by halves 2 alone, which is banned; then 3 and 4.
    assert tried == [(1, True), (2, True), (4, False), (3, False), (4, True)]
    assert search.probe.asked_for == [0, 1, 2]  # not again after the round that was taken back


def test_what_harms_too_much_is_measured_no_further(monkeypatch):
    found = planted_model(4, 4, n_layers=2, d_mlp=24, distractors=8)
    model = tn.load_model(found.model, tokenizer=found.tokenizer, device="cpu")
    task, *others = found.tasks
    probe = Probe(model, task, others, QUESTION)
    measured: list[str] = []
    value = probe._value

    def counted(parts: Any, metric: Any) -> Any:
        measured.append(parts[0][0].name)
        return value(parts, metric)

    monkeypatch.setattr(probe, "_value", counted)
    last = others[-1].name
    harmful = tn.NeuronSet(found.truth[last], view(model).fingerprint, last)
    whole = probe.toll(harmful, lambda _: True)
    assert len(measured) == 4 and whole.worst_task == last and whole.taken == 0.0
    allows = tn.Limits().allows
    part = probe.toll(harmful, allows)
    assert not allows(whole) and not allows(part)
    assert part.harm == whole.harm and math.isnan(part.taken)  # it comes last, the first time
    # What the harm was seen by comes first from then on.
    measured.clear()
    probe.toll(harmful, allows)
    assert measured == [last]
    # A set that takes too little isn't measured on the others.
    measured.clear()
    assert math.isnan(probe.toll(harmful, allows, least=0.5).harm)
    assert measured == [task.name]
    own = probe.toll(replace(harmful, mask=found.truth[task.name]), allows)
    assert allows(own) and own.taken == 1.0 and own.harm == 0.0


def test_a_task_is_asked_under_several_draws_of_demonstrations():
    model = tn.load_model("mini-llama", device="cpu")
    task, other = tn.load_tasks("mini", ["mini_film", "mini_news"])
    prompt = tn.Prompt(shots=1, seed=5)
    question = tn.Question(prompt=prompt, n_score=8, n_held=13, n_spared=4)
    probe = Probe(model, task, [other], question)
    assert [part.seed for _, part in probe.asked] == [5, 6, 7]
    told = [example for part, _ in probe.asked for example in part.test]
    assert sorted(map(str, told)) == sorted(map(str, probe.held.test)) and len(told) == 13
    firsts = {
        encode(task, model.tokenizer, split="test", prompt=each, limit=1).items[0].prompt
        for _, each in probe.asked
    }
    assert len(firsts) == 3
    # Effects are means over the examples of all draws.
    parts = probe.still_right()
    sizes = [len(part.test) for part, _ in parts]
    assert len(parts) == 3 and max(sizes) <= 3
    each = [
        tn.score_neurons(model, part, signed=True, split="test", prompt=own).values * size
        for (part, own), size in zip(parts, sizes, strict=True)
    ]
    mean = torch.stack(each).sum(0) / sum(sizes)
    found = probe.effects(tn.NeuronSet.from_pairs(model, []))
    assert torch.allclose(found, mean.clamp_min(0.0), atol=1e-7)
    # Without demonstrations there is nothing to draw, and few examples aren't spread thin.
    assert len(spread(task, tn.Prompt(), 3)) == 1
    few = replace(task, test=task.test[:9])
    assert [len(part.test) for part, _ in spread(few, prompt, 3)] == [5, 4]


def test_pruning_leaves_out_what_the_goal_doesn_t_need():
    search = searched(micro.two_layers(), [0.1, 0.2, 0.15, 0.5, 0.04], [0] * 5, goal=0.7)
    assert sorted(search.order) == [1, 3] and search.toll.taken == pytest.approx(0.7)


def test_the_goal_must_be_passed_by_the_margin():
    limits = tn.Limits(goal=0.9, margin=2.0)
    assert limits.reached(Toll(0.0, 0.97, 0.03)) and not limits.reached(Toll(0.0, 0.95, 0.03))
    assert limits.reached(Toll(0.0, 1.0, 0.2))  # nothing is left above chance
    assert not limits.allows(Toll(0.0, 0.5))  # what wasn't measured isn't allowed


def test_two_tasks_may_differ_in_their_prompts(gated):
    model, found = gated
    task, other = found.tasks
    prompts = {task.name: tn.Prompt(), other.name: tn.Prompt(seed=1)}
    probe = Probe(model, task, [other], replace(QUESTION, prompt=prompts))
    assert len(probe.rivals()) == 1
    with pytest.raises(ValueError, match=f"but none for '{other.name}'"):
        Probe(model, task, [other], replace(QUESTION, prompt={task.name: tn.Prompt()}))


def test_it_gives_up_where_everything_harms():
    search = searched(micro.two_layers(), [0.01] * 30, [1.0] * 30)
    assert search.order == [] and len(search.rows) == 8
    assert search.toll.taken == 0.0


def test_plain_text_is_spared(gated):
    model, found = gated
    task, other = found.tasks
    texts = tn.Task.from_texts("text", [example.input for example in other.train[:8]])
    result = tn.find_neurons(model, task, [other, texts], limits=ALL, question=QUESTION)
    assert result.toll.text_harm <= ALL.text_harm
    strict = replace(ALL, text_harm=0.0, budget=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GoalNotReachedWarning)
        held = tn.find_neurons(model, task, [other, texts], limits=strict, question=QUESTION)
    assert held.toll.text_harm <= 0.0


def test_parts_of_the_training_examples_don_t_meet():
    examples = tuple(Example(str(i), "yes" if i % 2 else "no") for i in range(40))
    task = Task("t", examples, examples[:3], labels=("yes", "no"))
    scored, held = halves(task, tn.Question(n_score=10, n_held=12))
    assert scored.train == examples[:10] and held.test == examples[10:22]
    assert not set(held.test) & set(held.train) and len(held.train) == 28
    small = replace(task, train=examples[:7])
    scored, held = halves(small, tn.Question())
    assert scored.train == examples[:3] and held.test == examples[3:7]


def test_bad_input(gated):
    model, found = gated
    task, other = found.tasks
    with pytest.raises(ValueError, match="There are no others"):
        tn.find_neurons(model, task, [])
    with pytest.raises(ValueError, match="is among the others"):
        tn.find_neurons(model, task, [task, other])
    with pytest.raises(ValueError, match="goal is 90.0; it is a share"):
        tn.Limits(goal=90.0)
    with pytest.raises(ValueError, match="outside is \\(\\)"):
        tn.Limits(outside=())
    with pytest.raises(ValueError, match="budget is 0"):
        tn.Limits(budget=0)
    with pytest.raises(ValueError, match="harm is -0.1; it must be at least 0"):
        tn.Limits(harm=-0.1)
    with pytest.raises(ValueError, match="n_score is 0"):
        tn.Question(n_score=0)
    with pytest.raises(ValueError, match="has 3 training examples"):
        tn.find_neurons(model, replace(task, train=task.train[:3]), other)
    swap = {"yes": "no", "no": "yes"}
    wrong = replace(
        other,
        name="wrong",
        train=tuple(Example(e.input, swap[e.target], swap[e.target]) for e in other.train),
    )
    with pytest.raises(ValueError, match="'wrong' is at 0 on held-out training examples"):
        tn.find_neurons(model, wrong, task, question=QUESTION)
    with (
        pytest.warns(UnableWarning, match="can't do 'wrong', which must not be harmed"),
        pytest.raises(ValueError, match="None of the others"),
    ):
        tn.find_neurons(model, task, wrong, question=QUESTION)
    judged_by_loss = Task.from_texts("text", [example.input for example in task.train])
    with pytest.raises(ValueError, match="'text' is judged by its loss alone"):
        tn.find_neurons(model, judged_by_loss, other, question=QUESTION)
    foreign = replace(tn.score_neurons(model, other), fingerprint="2x48-of-another-model")
    with pytest.raises(ValueError, match="belongs to model 2x48-of-another-model"):
        tn.find_neurons(model, task, other, question=QUESTION, known={other.name: foreign})
    with pytest.raises(ValueError, match="known has scores of \\['mistyped'\\]"):
        tn.find_neurons(model, task, other, question=QUESTION, known={"mistyped": foreign})
    with pytest.raises(ValueError, match="metric is 'rank'"):
        tn.find_neurons(model, task, other, question=replace(QUESTION, metric="rank"))
