import numpy as np
import pandas as pd
import pytest

from tl_taskneurons.evaluation.tables import (
    deactivation_matrix,
    deactivation_table,
    diagonal_wins,
    summarise,
)


def rows(silenced: str, kind: str, seed: int, task: str, scores: list[float], losses: list[float]):
    return pd.DataFrame(
        {"silenced": silenced, "kind": kind, "seed": seed, "task": task, "metric": "accuracy",
         "item": range(len(scores)), "score": scores, "loss": losses, "n_neurons": 7,
         "n_truncated": 0}
    )  # fmt: skip


@pytest.fixture
def items() -> pd.DataFrame:
    return pd.concat(
        [
            rows("", "none", -1, "a", [1, 1, 1, 0], [1.0, 1.0, 1.0, 1.0]),
            rows("", "none", -1, "b", [1, 0], [2.0, 4.0]),
            rows("a", "task", -1, "a", [0, 0, 1, 0], [3.0, 3.0, 1.0, 2.0]),
            rows("a", "task", -1, "b", [1, 0], [2.5, 4.5]),
            rows("b", "task", -1, "a", [1, 1, 1, 1], [1.0, 1.0, 1.0, 0.0]),
            rows("b", "task", -1, "b", [0, 0], [6.0, 6.0]),
            rows("a", "random", 0, "a", [1, 1, 0, 0], [1.0, 1.0, 2.0, 1.0]),
            rows("a", "random", 1, "a", [1, 1, 1, 1], [1.0, 1.0, 1.0, 0.0]),
        ],
        ignore_index=True,
    ).sample(frac=1, random_state=0)


def test_table_by_hand(items):
    records = {row["task"]: row for row in deactivation_table(items).to_dict("records")}
    a, b = records["a"], records["b"]
    assert a["original"] == 0.75
    assert a["silenced"] == 0.25
    assert a["drop"] == 0.5
    assert a["random"] == 0.75
    assert a["n_controls"] == 2
    assert a["excess"] == 0.5
    assert a["others_drop"] == 0.0
    assert a["specificity"] == 0.5
    assert a["loss_rise"] == 1.25
    assert a["loss_rise_others"] == 0.5
    assert a["loss_specificity"] == 0.75
    assert a["loss_rise_random"] == 0.0
    assert a["drop_low"] <= a["drop"] <= a["drop_high"]
    assert b["n_controls"] == 0
    assert np.isnan(b["random"])
    assert b["specificity"] == 0.5 - -0.25


def test_matrix_by_hand(items):
    matrix = deactivation_matrix(items).set_index(["silenced", "task"])
    assert matrix.loc[("a", "a"), "change"] == -0.5
    assert matrix.loc[("a", "b"), "loss_change"] == 0.5
    assert matrix.loc[("b", "a"), "change"] == 0.25
    assert matrix.loc[("b", "b"), "loss_change"] == 3.0
    assert diagonal_wins(matrix.reset_index()) == {"tasks": 2, "rows": 2, "columns": 2}
    assert diagonal_wins(matrix.reset_index(), "change") == {"tasks": 2, "rows": 2, "columns": 2}


def test_the_diagonal_can_lose(items):
    matrix = deactivation_matrix(items)
    matrix.loc[(matrix["silenced"] == "a") & (matrix["task"] == "b"), "loss_change"] = 9.0
    assert diagonal_wins(matrix) == {"tasks": 2, "rows": 1, "columns": 1}


def test_without_the_plain_model_there_is_nothing_to_compare(items):
    with pytest.raises(ValueError, match="no rows of the plain model"):
        deactivation_matrix(items[items["kind"] != "none"])


@pytest.mark.parametrize("table", [deactivation_table, deactivation_matrix])
def test_the_plain_model_has_one_row_for_each_item(items, table):
    plain = items["kind"] == "none"
    with pytest.raises(ValueError, match=r"no row of the plain model.* item \d of 'b'"):
        table(items[~(plain & (items["task"] == "b"))])
    with pytest.raises(ValueError, match=r"no row of the plain model.* item 3 of 'a'"):
        table(items[~(plain & (items["item"] == 3))])
    with pytest.raises(ValueError, match=r"several rows of the plain model.* item \d of '[ab]'"):
        table(pd.concat([items, items[plain]]))


def test_summary_has_the_mean_and_keeps_the_order():
    frame = pd.concat(
        [rows("", "none", -1, "z", [1, 0], [1, 3]), rows("", "none", -1, "a", [1], [2])]
    )
    table = summarise(frame)
    assert table["task"].tolist() == ["z", "a"]
    assert table["value"].tolist() == [0.5, 1.0]
    assert table["loss"].tolist() == [2.0, 2.0]
    assert np.isnan(table["low"][1])


def test_right_answers_have_wilsons_interval(items):
    perfect = summarise(rows("", "none", -1, "a", [1] * 40, [1.0] * 40)).iloc[0]
    assert perfect["low"] == pytest.approx(40 / (40 + 1.959964**2))  # Wilson's of 40 of 40
    assert perfect["high"] == 1
    graded = summarise(rows("", "none", -1, "a", [0.2, 0.4, 0.6], [1.0] * 3)).iloc[0]
    reach = 4.302653 * 0.2 / 3**0.5  # Student's t with 2 degrees of freedom
    assert (graded["low"], graded["high"]) == pytest.approx((0.4 - reach, 0.4 + reach))


def test_a_set_that_no_task_has_is_refused(items):
    renamed = items.assign(silenced=items["silenced"].replace({"a": "aa"}))
    with pytest.raises(ValueError, match=r"'aa' .* no task has that name; did you mean 'a'"):
        deactivation_table(renamed)


def in_nats(items: pd.DataFrame, metric: str, sign: int) -> pd.DataFrame:
    """The items with their loss, or its negative, for their score."""
    return items.assign(metric=metric, score=sign * items["loss"])


@pytest.mark.parametrize(("metric", "sign"), [("loss", 1), ("log_prob", -1), ("my_own", -1)])
def test_a_drop_above_0_is_always_a_task_that_is_hurt(items, metric, sign):
    table = deactivation_table(in_nats(items, metric, sign)).set_index("task").loc[["a", "b"]]
    assert table["drop"].tolist() == table["loss_rise"].tolist() == [1.25, 3.0]
    assert table.loc["a", "excess"] == 1.25
    assert table["specificity"].tolist() == table["loss_specificity"].tolist()
    assert set(table["better"]) == {"lower" if sign > 0 else "higher"}
    assert table.loc["a", "unit"] == {"loss": "nats per token", "log_prob": "nats"}.get(metric, "")
    matrix = deactivation_matrix(in_nats(items, metric, sign))
    assert matrix["change"].tolist() == (sign * matrix["loss_change"]).tolist()
    assert diagonal_wins(matrix, "change") == {"tasks": 2, "rows": 2, "columns": 2}


@pytest.mark.parametrize("metric", ["accuracy", "exact_match", "rougeL", "prob"])
def test_shares_have_no_unit(items, metric):
    shares = items.assign(metric=metric)
    assert not {"unit", "better"} & {*deactivation_table(shares), *deactivation_matrix(shares)}


def with_plain_text(items: pd.DataFrame) -> pd.DataFrame:
    """A third task that has a loss and no score."""
    nothing, losses = [np.nan, np.nan], [5.0, 5.0]
    texts = [
        rows("", "none", -1, "t", nothing, losses),
        rows("a", "task", -1, "t", nothing, losses),
        rows("t", "task", -1, "t", nothing, [9.0, 9.0]),
    ]
    return pd.concat([items, *(text.assign(metric="loss") for text in texts)], ignore_index=True)


def test_tasks_without_a_score_are_left_out_of_the_others(items):
    table = deactivation_table(with_plain_text(items)).set_index("task")
    assert table.loc["a", "others_drop"] == 0.0
    assert table.loc["a", "specificity"] == 0.5
    assert table.loc["a", "loss_rise_others"] == 0.25
    assert table.loc[["t"], ["drop", "others_drop"]].isna().all(axis=None)


def test_wins_leave_out_what_has_no_value(items):
    matrix = deactivation_matrix(with_plain_text(items))
    assert diagonal_wins(matrix, "change") == {"tasks": 2, "rows": 2, "columns": 2}
    assert diagonal_wins(matrix) == {"tasks": 3, "rows": 3, "columns": 3}


def test_a_tie_is_no_win(items):
    matrix = deactivation_matrix(items).assign(change=0.0)
    assert diagonal_wins(matrix, "change") == {"tasks": 2, "rows": 0, "columns": 0}


def test_rows_are_compared_with_tasks_that_have_no_set(items):
    matrix = deactivation_matrix(items)
    matrix = matrix[matrix["silenced"] == "a"]
    matrix.loc[matrix["task"] == "b", "loss_change"] = 9.0
    assert diagonal_wins(matrix) == {"tasks": 1, "rows": 0, "columns": 1}


@pytest.mark.parametrize("table", [deactivation_table, deactivation_matrix])
def test_two_sets_of_one_name_are_refused(items, table):
    larger = items[items["kind"] == "task"].assign(n_neurons=30)
    with pytest.raises(ValueError, match=r"2 rows for item \d of '.' .*kind 'task'.* 7 and 30"):
        table(pd.concat([items, larger]))


def test_two_controls_of_one_seed_are_refused(items):
    controls = items["kind"] == "random"
    with pytest.raises(ValueError, match=r"'a' silenced \(kind 'random', seed 0\)"):
        deactivation_table(items.assign(seed=items["seed"].where(~controls, 0)))
    # The matrix doesn't read them, and Table 1 has two kinds of controls.
    deactivation_matrix(pd.concat([items, items[controls]]))


@pytest.mark.parametrize(
    ("kind", "low", "told"),
    [("task", 2, "it has 2, with none silenced 4, and item 0"),
     ("random", 1, r"it has 4, with random ones \(seed 0\) silenced 3, and item 0")],
)  # fmt: skip
def test_a_task_has_the_same_items_in_all_rows(items, kind, low, told):
    kept = items[(items["kind"] != kind) | (items["task"] != "a") | (items["item"] >= low)]
    with pytest.raises(ValueError, match=f"The items of 'a' differ: .*{told}"):
        deactivation_table(kept)
    late = deactivation_table(items[(items["task"] != "a") | (items["item"] >= 2)])
    assert late["original"].tolist() == [0.5, 0.5]
