import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tl_taskneurons import similarity_by_layer, similarity_transfer

MODELS = ["m0", "m1", "m2", "m3", "m4"]
X = [0.10, 0.32, 0.25, 0.41, 0.60]
Y = [0.20, 0.30, 0.45, 0.50, 0.55]


def similarities(values: dict[tuple[str, str, int], float], part: str = "all") -> pd.DataFrame:
    """Rows of ``similarity_over_models`` from ``{(model, test task, layer): similarity}``."""
    return pd.DataFrame(
        {"model": model, "reading": "masked", "layer": layer, "part": part, "task_x": model,
         "task_y": task, "n_x": 1, "n_y": 1, "shared": 1, "similarity": value}
        for (model, task, layer), value in values.items()
    )  # fmt: skip


def of_models(values: list[float], task: str = "t") -> pd.DataFrame:
    return similarities({(f"m{k}", task, 0): value for k, value in enumerate(values)})


def results(values: list[float], task: str = "t") -> pd.DataFrame:
    return pd.DataFrame(
        {"model": [f"m{k}" for k in range(len(values))], "task": task, "value": values}
    )


def by_method(found: pd.DataFrame) -> dict[str, dict]:
    return {row["method"]: row for row in found.to_dict("records")}


# --- curves ---


def test_curves_are_means_over_models():
    table = similarities(
        {("a", "t", 0): 0.1, ("b", "t", 0): 0.2, ("c", "t", 0): 0.6, ("a", "t", 1): 0.5,
         ("b", "t", 1): math.nan, ("c", "t", 1): 0.7, ("a", "u", 1): 0.9, ("b", "u", 1): math.nan}
    )  # fmt: skip
    found = similarity_by_layer(table)
    assert found["task_y"].tolist() == ["t", "t", "u"]
    assert found["layer"].tolist() == [0, 1, 1]
    np.testing.assert_allclose(found["similarity"], [0.3, 0.6, 0.9])
    assert found["n_models"].tolist() == [3, 2, 1]
    reach = 4.302653 * (0.07 / 3) ** 0.5  # Student's t of 2, variance (0.04 + 0.01 + 0.09) / 2
    assert found["low"].iloc[0] == pytest.approx(0.3 - reach)
    assert found["high"].iloc[0] == pytest.approx(0.3 + reach)
    assert found[["low", "high"]].iloc[1:].isna().all(axis=None)  # two models are too few
    pd.testing.assert_frame_equal(found, similarity_by_layer(table))


def test_one_curve_averages_the_test_tasks_of_each_model_first():
    table = similarities(
        {("a", "t", 0): 0.1, ("a", "u", 0): 0.3, ("a", "v", 0): 0.5, ("b", "t", 0): 0.7}
    )
    found = similarity_by_layer(table, per_task=False)
    assert found["task_y"].tolist() == ["test tasks"]
    np.testing.assert_allclose(found["similarity"], [0.5])  # (0.3 + 0.7) / 2
    assert found["n_models"].tolist() == [2]


def test_parts_stay_apart():
    table = pd.concat([of_models(X), of_models(Y).assign(part="W_in")])
    assert similarity_by_layer(table)["similarity"].tolist() == [np.mean(X), np.mean(Y)]
    found = similarity_transfer(table, results(Y))
    assert found["part"].tolist() == ["all", "all", "W_in", "W_in"]
    assert found["r"].iloc[2] == pytest.approx(1)
    assert found["r"].iloc[0] < 0.95


# --- correlation with transfer ---


def test_correlations_are_scipys():
    found = by_method(similarity_transfer(of_models(X), results(Y)))
    pearson = stats.pearsonr(X, Y)
    rho = float(stats.spearmanr(X, Y)[0])  # pyright: ignore[reportArgumentType]
    assert found["pearson"]["r"] == pytest.approx(pearson[0])
    assert found["spearman"]["r"] == pytest.approx(rho)
    assert {row["n"] for row in found.values()} == {5}
    assert {row["task"] for row in found.values()} == {"t"}
    interval = pearson.confidence_interval(0.95)
    assert found["pearson"]["low"] == pytest.approx(interval.low)
    assert found["pearson"]["high"] == pytest.approx(interval.high)
    reach = 1.959964 * math.sqrt((1 + rho**2 / 2) / 2)
    assert found["spearman"]["low"] == pytest.approx(math.tanh(math.atanh(rho) - reach), abs=1e-6)
    assert found["spearman"]["high"] == pytest.approx(math.tanh(math.atanh(rho) + reach), abs=1e-6)


def test_p_counts_every_order_of_the_models():
    found = by_method(similarity_transfer(of_models(X), results(Y)))
    for method, correlate in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        orders = [correlate(X, order)[0] for order in itertools.permutations(Y)]
        above = np.mean([r >= found[method]["r"] - 1e-12 for r in orders])
        assert found[method]["p"] == pytest.approx(2 * above)


def test_ties():
    x, y = [1.0, 1.0, 2.0, 3.0, 4.0], [0.1, 0.3, 0.2, 0.2, 0.9]
    found = by_method(similarity_transfer(of_models(x), results(y)))
    assert found["spearman"]["r"] == pytest.approx(stats.spearmanr(x, y)[0])


def test_a_perfect_order_of_few_models_is_not_certain():
    found = by_method(similarity_transfer(of_models([1.0, 2.0, 3.0, 4.0]), results([1, 4, 9, 16])))
    assert found["spearman"]["r"] == pytest.approx(1)
    assert found["spearman"]["p"] == pytest.approx(2 / 24)
    assert math.isnan(found["spearman"]["low"])
    assert found["pearson"]["low"] < found["pearson"]["r"] < found["pearson"]["high"] < 1


@pytest.mark.parametrize(
    ("x", "y", "n"),
    [
        ([0.1, 0.2], [0.3, 0.4], 2),
        ([0.1, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4], 4),
        ([0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5], 4),
        ([0.1, 0.2, math.nan, 0.4], [0.1, 0.2, 0.3, math.nan], 2),
    ],
)
def test_too_few_models_or_no_variation_is_nan(x: list[float], y: list[float], n: int):
    found = similarity_transfer(of_models(x), results(y))
    assert found["n"].tolist() == [n, n]
    assert found[["r", "low", "high", "p"]].isna().all(axis=None)


def test_three_models_have_no_interval():
    found = similarity_transfer(of_models([1.0, 2.0, 4.0]), results([2.0, 1.0, 5.0]))
    assert found["r"].notna().all()
    assert found[["low", "high"]].isna().all(axis=None)


def test_layers_are_averaged_and_tasks_kept_apart():
    values = {}
    for k, (x, y) in enumerate(zip(X, Y, strict=True)):
        values |= {(f"m{k}", "t", 0): x - 0.1, (f"m{k}", "t", 1): x + 0.1}
        values |= {(f"m{k}", "u", 0): y, (f"m{k}", "u", 1): math.nan}
    scores = pd.concat([results(Y, "t"), results(Y, "u"), results(X, "not asked for")])
    found = similarity_transfer(similarities(values), scores)
    assert found["task"].tolist() == ["t", "t", "u", "u"]
    assert found["r"].iloc[0] == pytest.approx(stats.pearsonr(X, Y)[0])
    assert found["r"].iloc[2] == pytest.approx(1)


def test_many_models_use_random_orders_of_the_seed():
    rng = np.random.default_rng(0)
    x = rng.normal(size=12)
    y = x + rng.normal(size=12)
    tables = [
        similarity_transfer(of_models(list(x)), results(list(y)), seed=seed) for seed in (0, 0, 1)
    ]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0]["p"].equals(tables[2]["p"])
    assert tables[0]["p"].iloc[0] == pytest.approx(stats.pearsonr(x, y)[1], rel=0.5)


def test_bad_tables():
    good, scores = of_models(X), results(Y)
    with pytest.raises(ValueError, match=r"similarities lacks the columns \['model'\]"):
        similarity_transfer(good.drop(columns="model"), scores)
    with pytest.raises(ValueError, match=r"scores lacks the columns \['value'\]"):
        similarity_transfer(good, scores.drop(columns="value"))
    with pytest.raises(ValueError, match=r"similarities lacks the columns \['layer'\]"):
        similarity_by_layer(good.drop(columns="layer"))
    with pytest.raises(ValueError, match="several rows for model 'm0' and task 't'"):
        similarity_transfer(good, pd.concat([scores, scores]))
    with pytest.raises(ValueError, match="no row for model 'm4' and task 't'; evaluate"):
        similarity_transfer(good, scores.iloc[:4])
