import pytest
import torch

from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.selection import SELECTIONS, layer_table, select


def scores(name: str, values: list[float]) -> NeuronScores:
    return NeuronScores(torch.tensor(values).reshape(2, 5), "m", name, "grad_act")


# Neurons 0 and 1 matter to both tasks, 2 and 3 to a alone, 5 and 6 to b alone.
BOTH = {
    "a": scores("a", [9, 8, 7, 6, 0.1, 0, 0, 0, 0, 0]),
    "b": scores("b", [9, 8, 0, 0, 0.1, 7, 6, 0, 0, 0]),
}


def chosen(selection: str, fraction: float = 0.4) -> dict[str, list[int]]:
    sets = select(BOTH, selection, fraction)
    return {name: s.mask.flatten().nonzero().flatten().tolist() for name, s in sets.items()}


def test_each_selection_by_hand():
    assert chosen("plain") == {"a": [0, 1, 2, 3], "b": [0, 1, 5, 6]}
    assert chosen("exclusive") == {"a": [2, 3], "b": [5, 6]}
    assert chosen("exclude", 0.2) == {"a": [2, 3], "b": [5, 6]}
    assert chosen("difference", 0.2) == {"a": [2, 3], "b": [5, 6]}
    assert chosen("rank", 0.2) == {"a": [2, 3], "b": [5, 6]}


def test_a_contrast_never_takes_a_neuron_that_scores_nothing():
    assert chosen("exclude", 0.4) == {"a": [2, 3, 4], "b": [4, 5, 6]}
    assert chosen("difference", 0.9) == {"a": [2, 3], "b": [5, 6]}


def test_a_task_left_without_neurons_is_named():
    twins = {"a": BOTH["a"], "b": BOTH["a"]}
    with pytest.raises(
        ValueError, match="'exclusive' at fraction 0.4 leaves no neurons for .* 'a'"
    ):
        select(twins, "exclusive", 0.4)


def test_the_layers_of_a_set_by_hand():
    table = layer_table(BOTH, select(BOTH, "plain", 0.4))
    assert table[["task", "layer", "n_neurons"]].to_numpy().tolist() == [
        ["a", 0, 4], ["a", 1, 0], ["b", 0, 2], ["b", 1, 2],
    ]  # fmt: skip
    assert table["share"].tolist() == [1, 0, 0.5, 0.5]
    b = [17.1 / 30.1, 13 / 30.1]
    assert table["score_share"].tolist() == pytest.approx([1, 0, *b], rel=1e-6)


def test_bad_selections():
    with pytest.raises(ValueError, match="Unknown selection 'plane'; did you mean 'plain'"):
        select(BOTH, "plane")
    for name in SELECTIONS:
        if name != "plain":
            with pytest.raises(ValueError, match="there is only \\['a'\\]"):
                select({"a": BOTH["a"]}, name)


def test_lape_takes_neurons_that_fire_in_few_tasks():
    # Of 60 frequencies the top 5% are .9 and above. Neuron 0 fires in task a alone, 3 in c alone,
    # 2 in a and b, 1 in all; so the three of least entropy are 0, 3 and 2.
    rows = {"a": [0.9, 0.95, 0.9, 0.0], "b": [0.0, 0.95, 0.9, 0.0], "c": [0.0, 0.95, 0.2, 0.9]}
    found = {
        name: NeuronScores(torch.tensor([[*row, *[0.0] * 16]]), "m", name, "frequency")
        for name, row in rows.items()
    }
    few = {name: [j for _, j in members] for name, members in select(found, "lape", 0.15).items()}
    assert few == {"a": [0, 2], "b": [2], "c": [3]}
    with pytest.raises(ValueError, match="'lape' at fraction 0.1 leaves no neurons for task 'b'"):
        select(found, "lape", 0.1)
    with pytest.raises(ValueError, match="those of 'a' are of method 'grad_act'"):
        select(BOTH, "lape", 0.1)


def test_lape_leaves_neurons_that_never_fire():
    quiet = torch.zeros(40, 100)
    found = {}
    for name in "ab":
        values = quiet.clone()
        values[20] = torch.rand(100, generator=torch.Generator().manual_seed(ord(name))) + 0.1
        found[name] = NeuronScores(values, "m", name, "frequency")
    for members in select(found, "lape", 0.02).values():
        assert {layer for layer, _ in members} == {20}


def test_chosen_neurons_that_were_not_scored_are_told():
    values = torch.zeros(4, 10)
    values[1] = torch.arange(1.0, 11.0)
    own = NeuronScores(values, "m", "a", "grad_act", {"layers": [1]})
    with pytest.warns(UserWarning, match=r"10 of the 20 chosen .* 'a' .*only \[1\] were"):
        own.top(fraction=0.5)
    assert {layer for layer, _ in own.top(n=10)} == {1}


def test_chosen_neurons_to_which_a_contrast_gives_nothing_are_told():
    left = BOTH["a"].contrast(BOTH["b"], fraction=0.4)  # neurons 2, 3 and 4
    with pytest.warns(UserWarning, match=r"3 of the 6 chosen .* 'a' have a score of 0.*sign="):
        assert len(left.top(n=6)) == 6
    assert left.top(n=6, sign="both").mask.flatten().nonzero().flatten().tolist() == [2, 3, 4]
    assert len(left.top(n=3)) == 3
    assert len(left.top(threshold=0.0)) == 10  # asked for


def test_selections_that_leave_unscored_neurons_out_say_nothing_of_them():
    values = torch.zeros(4, 10)
    values[1] = torch.arange(1.0, 11.0)
    for selection, method in (("exclude", "grad_act"), ("lape", "frequency")):
        found = {
            name: NeuronScores(own, "m", name, method, {"layers": [1]})
            for name, own in (("a", values), ("b", values.flip(1)))
        }
        for members in select(found, selection, 0.5 if selection == "lape" else 0.1).values():
            assert {layer for layer, _ in members} == {1}
