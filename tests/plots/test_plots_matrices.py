import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle
from plotting import (
    bars,
    clipped,
    heading,
    images,
    member_table,
    one_overlap_table,
    texts,
    training_table,
)

from tl_taskneurons import plots


@pytest.mark.parametrize(("column", "factor"), [("change", 100), ("loss_change", 1)])
def test_training_shows_its_numbers_and_red_is_still_what_hurts(column: str, factor: int):
    table = training_table()
    figure = plots.training_heatmap(table, column)
    (image,) = images(figure)
    np.testing.assert_allclose(image.get_array(), factor * table[column].to_numpy().reshape(3, 3))
    own_red, _, own_blue, _ = image.to_rgba(image.get_array())[0, 0]
    other_red, _, other_blue, _ = image.to_rgba(image.get_array())[0, 2]
    assert own_blue > 2 * own_red
    assert other_red > other_blue
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("evaluated on", "neurons trained")
    frames = [p.get_xy() for p in axes.patches if isinstance(p, Rectangle)]
    assert frames == [(k - 0.5, k - 0.5) for k in range(3)]


def test_twelve_tasks_have_bold_numbers_in_the_place_of_intervals():
    table = training_table(12)
    figure = plots.training_heatmap(table)
    axes: Any = figure.axes[0]
    assert len(axes.texts) == 144
    low, high = (table[end].to_numpy() for end in ("low", "high"))
    bold = [text.get_fontweight() == "bold" for text in axes.texts]
    assert bold == list((low > 0) | (high < 0))
    assert 0 < sum(bold) < 144
    assert "bold: the interval excludes 0" in heading(figure).lower()
    assert clipped(figure) == []


def test_a_cell_that_was_not_run_stays_empty():
    figure = plots.training_heatmap(training_table().drop(index=1))
    (image,) = images(figure)
    drawn = np.ma.filled(image.get_array(), np.nan)
    assert np.isnan(drawn[0, 1])
    assert drawn[2, 2] == drawn[0, 0] == 40  # the diagonal is one still
    assert len(figure.axes[0].texts) == 16


def test_overlap_is_drawn_on_both_sides_of_the_diagonal():
    table = one_overlap_table()
    figure = plots.overlap_heatmap(table)
    (image,) = images(figure)
    drawn = np.ma.filled(image.get_array(), np.nan)
    for row in table.to_dict("records"):
        i, j = int(row["task_x"][-1]), int(row["task_y"][-1])
        assert drawn[i, j] == drawn[j, i] == pytest.approx(100 * row["iou"])
    assert np.isnan(drawn.diagonal()).all()
    shown = texts(figure.axes[0])
    assert shown[:2] == ["1,000", "neurons"]
    np.testing.assert_allclose(float(shown[2]), drawn[0, 1], atol=0.051)
    np.testing.assert_allclose(float(shown[3]), 100 * table["expected_iou"][0], atol=0.051)
    assert image.get_clim() == (0, pytest.approx(np.nanmax(drawn)))
    frames = [p.get_xy() for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    assert frames == [(k - 0.5, k - 0.5) for k in range(3)]


def test_two_sets_of_one_name_have_their_overlap_on_the_diagonal():
    names = ("task_0", "task_1")
    table = pd.DataFrame(
        [{"task_x": x, "task_y": y, "n_x": 10, "n_y": 20, "iou": 0.2, "expected_iou": 0.1}
         for x in names for y in names]
    )  # fmt: skip
    table.loc[0, "iou"] = 0.9
    table.loc[3, ["iou", "n_y"]] = 1.0, 10  # one task's set is the same before and after
    figure = plots.overlap_heatmap(table)
    (image,) = images(figure)
    assert np.ma.filled(image.get_array(), -1).round(9).tolist() == [[90, 20], [20, -1]]
    assert image.get_clim() == (0, pytest.approx(90))
    shown = texts(figure.axes[0])
    assert shown[:2] == ["90.0", "10.0"] and shown[-2:] == ["10", "neurons"]


def test_overlap_without_sizes_and_of_many_tasks():
    figure = plots.overlap_heatmap(one_overlap_table(12).drop(columns=["n_x", "n_y"]))
    assert len(texts(figure.axes[0])) == 2 * 12 * 11
    assert clipped(figure) == []


def test_an_upset_plot_counts_every_combination():
    figure = plots.upset_plot(member_table())
    shared, sizes = (axes for axes in figure.axes if axes.patches)
    assert [bar.get_height() for bar in bars(shared)] == [8, 6, 5, 4, 3, 2]
    widths = [bar.get_width() for bar in bars(sizes)]
    assert sorted(widths) == [9, 10, 13, 14]
    assert shared.get_ylabel() == "neurons"
    assert sizes.get_xlabel() == "set size"
    named = [text for axes in figure.axes for text in texts(axes)]
    assert [name for name in named if name.startswith("task")] == [f"task {k}" for k in range(4)]
    assert clipped(figure) == []


def test_an_upset_plot_of_the_largest_combinations_says_so():
    figure = plots.upset_plot(member_table(), largest=2)
    shared, sizes = (axes for axes in figure.axes if axes.patches)
    assert [bar.get_height() for bar in bars(shared)] == [8, 6]
    assert len(sizes.patches) == 4
    assert heading(figure).endswith("The 2 largest of 6 combinations")


def test_without_marsilea_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "marsilea.upset", None)
    with pytest.raises(ImportError, match=r"pip install 'tl-taskneurons\[upset\]'"):
        plots.upset_plot(member_table())
