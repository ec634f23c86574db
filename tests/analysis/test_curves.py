import copy
import math
from dataclasses import replace
from typing import Any

import helpers
import micro
import numpy as np
import pandas as pd
import pytest
import torch

import tl_taskneurons as tn
from tl_taskneurons.analysis.areas import areas_of
from tl_taskneurons.analysis.curves import NothingToLoseWarning
from tl_taskneurons.tasks.task import Example, Task

OTHER = Task(
    "capitals", (Example("k", "K"),),
    tuple(Example(a, a.upper()) for a in ("ab", "c", "de")), metric="exact_match",
)  # fmt: skip
SHARES = (0.02, 0.25, 1.0)


def hf_loss(hf, items, silenced):
    """The mean loss of the answers with rows of the output matrices set to zero, by hand."""
    changed = copy.deepcopy(hf)
    with torch.no_grad():
        for layer, block in enumerate(changed.model.layers):
            block.mlp.down_proj.weight[:, silenced[layer]] = 0.0
        losses = []
        for item in items:
            ids = torch.tensor([item.prompt + item.answer])
            log_probs = changed(ids).logits[0].log_softmax(-1)
            start = len(item.prompt) - 1
            own = [log_probs[start + i, token] for i, token in enumerate(item.answer)]
            losses.append(-sum(own) / len(own))
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("kind", ["bridge", "hooked"] if helpers.HAS_HOOKED else ["bridge"])
def test_curves_are_those_of_brute_force(kind, tokenizer):
    from tl_taskneurons.models.inputs import Data, read_inputs

    model, hf, task = micro.lens("llama", kind, tokenizer), helpers.tiny_hf("llama"), micro.words()
    scores = tn.score_neurons(model, task, signed=True)
    found = tn.ablation_curves(model, task, scores, others=[OTHER], fractions=SHARES, metric="loss")
    items = read_inputs(model, task, Data(split="test")).items
    others = read_inputs(model, OTHER, Data(split="test")).items
    rows: Any = {(row.curve, row.n_neurons): row for row in found.table.itertuples()}
    assert sorted(set(found.table["n_neurons"])) == [0, 2, 24, 96]
    everything, nothing = torch.ones(2, 48, dtype=torch.bool), torch.zeros(2, 48, dtype=torch.bool)
    m_all, m_none = hf_loss(hf, items, nothing), hf_loss(hf, items, everything)
    order = scores.values.flatten().argsort(descending=True, stable=True)  # help: the loss rises
    for count in (0, 2, 24, 96):
        top = nothing.clone().view(-1).index_fill(0, order[:count], True).view(2, 48)
        necessity, sufficiency = hf_loss(hf, items, top), hf_loss(hf, items, ~top)
        row = rows["necessity", count]
        assert row.value == pytest.approx(necessity, abs=2e-5)
        assert row.change == pytest.approx(necessity - m_all, abs=4e-5)
        assert row.fraction == count / 96
        row = rows["sufficiency", count]
        assert row.value == pytest.approx(sufficiency, abs=2e-5)
        wanted = (sufficiency - m_none) / (m_all - m_none)
        assert row.faithfulness == pytest.approx(wanted, abs=1e-3)
        row = rows["harm", count]
        assert row.value == pytest.approx(hf_loss(hf, others, top), abs=2e-5)
        assert row.task == "capitals"
    assert micro.unchanged(model, micro.snapshot(model))


def by_hand(faithfulness, curve="sufficiency", task="own", shares=(0.0, 0.1, 0.5, 1.0)):
    return pd.DataFrame(
        {"ranking": "r", "curve": curve, "task": task, "fraction": shares,
         "faithfulness": faithfulness}
    )  # fmt: skip


def test_areas_by_hand():
    kept = by_hand([0.0, 0.5, 1.2, 1.0])
    row = areas_of(kept).iloc[0]
    assert row["cpr_neurons"] == pytest.approx(0.1 * 0.25 + 0.4 * 0.85 + 0.5 * 1.1)
    assert row["cmd_neurons"] == pytest.approx(0.1 * 0.75 + 0.4 * 0.35 + 0.5 * 0.1)
    inner = (math.log(5) * 0.75 + math.log(2)) / math.log(10)
    assert row["sufficiency"] == pytest.approx(inner)
    assert math.isnan(row["necessity"]) and math.isnan(row["specificity"])


def test_specificity_is_what_the_task_loses_beyond_the_others():
    kept = by_hand([0.0, 0.5, 1.0, 1.0])
    lost = by_hand([1.0, 0.2, 0.0, 0.0], "necessity")
    harms = [by_hand([1.0, 1.0, 0.8, 0.0], "harm", "a"), by_hand([1.0, 0.8, 0.6, 0.0], "harm", "b")]
    row = areas_of(pd.concat([kept, lost, *harms])).iloc[0]
    span = math.log(10)
    necessity = (math.log(5) * 0.9 + math.log(2) * 1.0) / span
    harm = (math.log(5) * 0.2 + math.log(2) * 0.65) / span
    assert row["necessity"] == pytest.approx(necessity)
    assert row["harm"] == pytest.approx(harm)
    assert row["specificity"] == pytest.approx(necessity - harm)


def test_areas_need_the_empty_set():
    with pytest.raises(ValueError, match="no curve of sufficiency from k = 0"):
        areas_of(by_hand([0.5, 1.2, 1.0], shares=(0.1, 0.5, 1.0)))


def test_rankings_by_name_and_by_sets(tokenizer):
    model, task = micro.lens("llama", "bridge", tokenizer), micro.words()
    scores = tn.score_neurons(model, task)
    sets = [scores.top(n=n) for n in (24, 2)]
    found = tn.ablation_curves(
        model, task, {"scores": scores, "sets": sets}, fractions=(0.02, 0.25),
        metric="log_prob", ablation="mean", means=tn.activation_mean(model, task),
    )  # fmt: skip
    parts = [found.table[found.table["ranking"] == name] for name in ("scores", "sets")]
    columns = ["curve", "n_neurons", "value", "faithfulness"]
    one, two = (part[columns].to_numpy() for part in parts)
    np.testing.assert_equal(one, two)
    assert set(found.table["metric"]) == {"log_prob"}
    assert len(found.areas) == 2 and "cpr_neurons" in str(found)
    figure = found.plot()
    assert [len(axes.lines) for axes in figure.axes] == [4, 4]
    axes = figure.axes[0]
    assert found.plot(ax=axes) is figure


def test_scores_in_a_list_are_known_by_their_names_and_a_set_is_a_ranking(tokenizer):
    model, task = micro.lens("llama", "bridge", tokenizer), micro.words()
    first = tn.score_neurons(model, task)
    second = replace(first, values=first.values.flip(0), name="turned")
    found = tn.ablation_curves(model, task, [first, second], fractions=(0.1,), metric="loss")
    assert set(found.areas["ranking"]) == {task.name, "turned"}
    with pytest.raises(ValueError, match=r"Give a dict of names, or rename them"):
        tn.ablation_curves(model, task, [first, first], metric="loss")
    alone = tn.ablation_curves(model, task, {"top": first.top(n=3)}, metric="loss")
    assert set(alone.table["n_neurons"]) >= {0, 3}


def test_bad_input(tokenizer):
    model, task = micro.lens("llama", "bridge", tokenizer), micro.words()
    scores = tn.score_neurons(model, task)
    with pytest.raises(ValueError, match=r"fractions is \[0.0, 0.5\]"):
        tn.ablation_curves(model, task, scores, fractions=(0.0, 0.5))
    with pytest.raises(ValueError, match="among the others"):
        tn.ablation_curves(model, task, scores, others=[task])
    with pytest.raises(ValueError, match="rankings is empty"):
        tn.ablation_curves(model, task, {}, metric="loss")
    with pytest.raises(ValueError, match="value 0 both with all neurons and with none"):
        tn.ablation_curves(model, task, scores, max_new_tokens=2)
    with pytest.raises(ValueError, match="Two sets of a ranking have 3 neurons"):
        tn.ablation_curves(
            model, task, [scores.top(n=3), scores.top(n=3).random_like(0)], metric="loss"
        )
    with pytest.raises(TypeError, match="no option 'metrik'"):
        tn.ablation_curves(model, task, scores, metrik="loss")  # pyright: ignore[reportCallIssue]


def test_others_that_lose_nothing_are_told(tokenizer):
    model, task = micro.lens("llama", "bridge", tokenizer), micro.words()
    scores = tn.score_neurons(model, task)

    def first(logits, item):  # the same whatever is silenced, for the other task alone
        return logits[0, 0] * (0.0 if item.answer[-1] < 97 else 1.0)

    with pytest.warns(NothingToLoseWarning, match="'capitals' has the value 0"):
        found = tn.ablation_curves(
            model, task, scores, others=[OTHER], fractions=(0.1,), metric=first
        )
    harm = found.table[found.table["curve"] == "harm"]
    assert harm["faithfulness"].isna().all() and (harm["change"] == 0).all()
