"""CL, FG and transfer against matrices computed by hand, and the orders."""

import math

import numpy as np
import pytest

from tl_taskneurons.continual.matrix import (
    average_score,
    backward_transfer,
    forward_transfer,
    retained,
    stage_table,
)
from tl_taskneurons.continual.orders import ORDERS, order

# Rows are tasks, columns are stages.
SCORES = [[0.8, 0.6, 0.4], [0.3, 0.9, 0.5], [0.2, 0.1, 0.7]]
ALONE = [0.8, 1.0, 0.7]
ZERO_SHOT = [0.25, 0.2, 0.3]


def test_average_score_is_the_mean_over_seen_tasks():
    assert average_score(SCORES) == pytest.approx((0.4 + 0.5 + 0.7) / 3)
    assert average_score(SCORES, 0) == pytest.approx(0.8)
    assert average_score(SCORES, 1) == pytest.approx((0.6 + 0.9) / 2)


def test_retained_is_the_mean_ratio_over_earlier_tasks():
    assert math.isnan(retained(SCORES, ALONE, 0))
    assert retained(SCORES, ALONE, 1) == pytest.approx(0.6 / 0.8)
    assert retained(SCORES, ALONE, 2) == pytest.approx((0.4 / 0.8 + 0.5 / 1.0) / 2)


def test_retained_has_no_value_where_a_task_alone_scores_nothing():
    assert math.isnan(retained(SCORES, [0.0, 1.0, 0.7], 2))
    assert retained(SCORES, [0.8, 1.0, 0.0], 2) == retained(SCORES, ALONE, 2)


def test_backward_transfer_is_the_mean_change_since_the_own_stage():
    assert backward_transfer(SCORES) == pytest.approx(((0.4 - 0.8) + (0.5 - 0.9)) / 2)


def test_forward_transfer_is_the_mean_gain_just_before_the_own_stage():
    assert forward_transfer(SCORES, ZERO_SHOT) == pytest.approx(((0.3 - 0.2) + (0.1 - 0.3)) / 2)


def test_stage_table_has_a_row_per_stage():
    table = stage_table(SCORES, ALONE)
    assert table["stage"].tolist() == [1, 2, 3]
    assert table["cl"].tolist() == pytest.approx([0.8, 0.75, 1.6 / 3])
    np.testing.assert_allclose(table["fg"], [math.nan, 0.75, 0.5])


def test_one_task_has_nothing_to_transfer():
    assert average_score([[0.5]]) == 0.5
    assert math.isnan(backward_transfer([[0.5]]))
    assert math.isnan(forward_transfer([[0.5]], [0.1]))


@pytest.mark.parametrize("scores", [[], [0.5], [[0.5, 0.6]]])
def test_scores_that_are_no_square_are_refused(scores: list):
    with pytest.raises(ValueError, match="one row per task and one column per stage"):
        average_score(scores)


def test_the_paper_s_orders_are_complete():
    short = {"dbpedia", "amazon", "yahoo", "agnews"}
    for name in ("order1", "order2", "order3"):
        assert set(ORDERS[name]) == short
        assert len(ORDERS[name]) == 4
    for name in ("order4", "order5", "order6"):
        assert set(ORDERS[name]) == short | {"mnli", "qqp", "rte", "sst2"}
        assert len(ORDERS[name]) == 8
    assert len(set(ORDERS.values())) == len(ORDERS)


def test_an_order_is_a_name_or_a_list_of_tasks():
    assert order("order3") == ("yahoo", "amazon", "agnews", "dbpedia")
    assert order("one, two") == ("one", "two")
    with pytest.raises(ValueError, match="Unknown order 'ordr1'; did you mean 'order1'"):
        order("ordr1")


def test_chance_is_taken_away_from_what_is_retained():
    a = [[0.9, 0.5], [0.2, 0.8]]
    assert retained(a, [0.9, 0.8], 1) == pytest.approx(0.5 / 0.9)
    assert retained(a, [0.9, 0.8], 1, [0.5, 0.2]) == pytest.approx(0.0)
    assert math.isnan(retained(a, [0.5, 0.8], 1, [0.5, 0.2]))
