import helpers
import pytest
import torch

import tl_taskneurons as tn
from tl_taskneurons.tasks.task import Example, Task

TASK = Task(
    "pair",
    tuple(Example(a, a.upper()) for a in ("ab", "cd", "ef", "g")),
    (Example("h", "H"),),
    metric="exact_match",
)


@pytest.fixture(scope="module")
def model(tokenizer):
    hf = helpers.tiny_hf("llama")
    with torch.no_grad():  # small neurons: first order is then nearly exact
        for name, weight in hf.named_parameters():
            if "down_proj" in name:
                weight.mul_(0.05)
    return tn.load_model(hf, tokenizer=tokenizer, device="cpu")


def test_first_order_is_faithful_where_neurons_are_small(model):
    found = tn.faithfulness(model, TASK, n_random=30, n_top=10, fractions=(0.05, 0.2))
    row = found.summary.iloc[0]
    assert row["n"] == len(found.neurons) == 40
    assert row["spearman"] > 0.99
    assert row["pearson"] > 0.99
    assert row["slope"] == pytest.approx(1.0, abs=0.05)
    assert row["top_overlap"] == 1.0
    assert found.sets["true"].tolist() == pytest.approx(found.sets["predicted"].tolist(), rel=0.2)
    assert (found.sets["sum_of_scores"] >= found.sets["predicted"].abs() - 1e-6).all()
    assert "spearman" in str(found)


def test_random_scores_are_not_faithful(model):
    found = tn.faithfulness(model, TASK, "random", n_random=30, n_top=10, fractions=(0.1,))
    assert abs(found.summary["spearman"][0]) < 0.6
    assert found.summary["top_overlap"][0] < 0.7


def test_the_sample_is_seeded_and_marked(model):
    first = tn.faithfulness(model, TASK, n_random=12, n_top=5, fractions=(), seed=1)
    again = tn.faithfulness(model, TASK, n_random=12, n_top=5, fractions=(), seed=1)
    other = tn.faithfulness(model, TASK, n_random=12, n_top=5, fractions=(), seed=2)
    assert first.neurons.equals(again.neurons)
    assert not first.neurons.equals(other.neurons)
    assert first.neurons["sample"].value_counts().to_dict() == {"random": 12, "top": 5}


def test_some_layers_alone(model):
    found = tn.faithfulness(model, TASK, n_random=30, n_top=10, fractions=(0.2,), layers=[1])
    whole = tn.faithfulness(model, TASK, n_random=46, n_top=50, fractions=())
    assert len(found.neurons) == 40 and set(found.neurons["layer"]) == {1}
    both = found.neurons.merge(whole.neurons, on=["layer", "neuron"])
    assert both["exact_x"].tolist() == pytest.approx(both["exact_y"].tolist(), abs=1e-7)
    assert found.summary["spearman"][0] > 0.99
    with pytest.raises(ValueError, match=r"at most those of the layers \[1\]: 48"):
        tn.faithfulness(model, TASK, n_random=40, n_top=9, layers=[1])
    with pytest.raises(ValueError, match="with method 'random'"):
        tn.faithfulness(model, TASK, "random", n_random=20, n_top=9, layers=[1])


def test_bad_arguments(model):
    with pytest.raises(ValueError, match="choose another method"):
        tn.faithfulness(model, TASK, "exact")
    with pytest.raises(ValueError, match="n_random=2 \\+ n_top=2"):
        tn.faithfulness(model, TASK, n_random=2, n_top=2)
