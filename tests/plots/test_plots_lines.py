from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from plotting import (
    FRACTIONS,
    alone_table,
    bars,
    clipped,
    controlled_table,
    forgetting_table,
    intervals,
    layer_table,
    lines,
    neuron_table,
    overlap_table,
    set_table,
    share_table,
    sibling_table,
    similarity_table,
    with_interval,
    y_label,
)

from tl_taskneurons import plots


def labels(figure: Any) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def headings(figure: Any) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_share_curves_hold_the_scores_and_their_intervals():
    table = share_table()
    figure = plots.share_curves(table)
    assert headings(figure) == ["trained: CLS", "trained: GEN"]
    for axes, trained in zip(figure.axes, ("CLS", "GEN"), strict=True):
        drawn, spans = lines(axes), intervals(axes)
        assert len(drawn) == len(spans) == 3
        for (label, (x, y)), span in zip(drawn.items(), spans, strict=True):
            tested, kind = label.removeprefix("tested: ").split(", ")
            rows = table.query(
                f"train_group == '{trained}' and test_group == '{tested}' and kind == '{kind}'"
            )
            np.testing.assert_allclose(x, 100 * rows["fraction"], atol=2)
            np.testing.assert_allclose(y, 100 * rows["score"])
            np.testing.assert_allclose(span, 100 * rows[["low", "high"]])
    dashes = {line.get_label(): line.get_linestyle() for line in figure.axes[0].get_lines()}
    assert dashes["tested: CLS, in-domain"] == "-"
    assert dashes["tested: CLS, out-of-domain"] == dashes["tested: GEN, out-of-domain"] == "--"
    assert len(labels(figure)) == 4
    assert figure.axes[0].get_ylabel() == "accuracy / ROUGE-L (%)"
    assert figure.axes[1].get_xlabel() == "trained neurons (% of all)"
    ticks = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert ticks == ["10", "30", "50", "70", "100"]


def test_share_curves_of_tasks_alone_have_a_panel_for_each():
    table = alone_table()
    figure = plots.share_curves(table, panel="task", line=None)
    assert headings(figure) == [f"trained: task {k}" for k in range(4)]
    for k, axes in enumerate(figure.axes):
        for kind, (_, y) in lines(axes).items():
            rows = table[(table["task"] == f"task_{k}") & (table["kind"] == kind)]
            np.testing.assert_allclose(y, 100 * rows["score"])
    assert labels(figure) == ["in-domain", "out-of-domain"]
    assert y_label(figure) == "score (%)"


def test_points_are_drawn_in_order_whatever_the_order_of_rows():
    shuffled = share_table().sample(frac=1, random_state=1)
    for axes in plots.share_curves(shuffled).axes:
        for x, _ in lines(axes).values():
            assert (np.diff(x) > 0).all()


def test_a_score_of_one_seed_has_no_interval():
    figure = plots.share_curves(share_table().assign(low=np.nan, high=np.nan))
    drawn: Any = figure.axes[0].collections
    segments = [segment for bars in drawn for segment in bars.get_segments()]
    assert not [segment for segment in segments if segment.size and np.isfinite(segment).all()]
    assert clipped(figure) == []


def test_controlled_overlap_has_a_line_per_share():
    table = controlled_table()
    figure = plots.controlled_overlap_curves(table)
    assert headings(figure) == ["CLS \u2192 CLS", "GEN \u2192 GEN"]
    drawn = lines(figure.axes[1])
    assert list(drawn) == [f"{share}% of neurons trained" for share in (10, 30, 50)]
    for share, (label, (x, y)), span in zip(
        (0.1, 0.3, 0.5), drawn.items(), intervals(figure.axes[1]), strict=True
    ):
        rows = table[(table["fraction"] == share) & (table["train_group"] == "GEN")]
        np.testing.assert_allclose(x, 100 * rows["overlap"], atol=2, err_msg=label)
        np.testing.assert_allclose(y, 100 * rows["score"])
        np.testing.assert_allclose(span, 100 * rows[["low", "high"]])
    bare = table[table["train_group"] == "CLS"].drop(columns=["train_group", "test_group"])
    assert headings(plots.controlled_overlap_curves(bare)) == [""]


@pytest.mark.parametrize("n_methods", [1, 12])
def test_forgetting_curves_hold_what_is_left(n_methods: int):
    table = forgetting_table(n_methods)
    figure = plots.forgetting_curves(table)
    (axes,) = figure.axes
    drawn = lines(axes)
    assert labels(figure) == list(drawn) == [f"method {k}" for k in range(n_methods)]
    for name, span in zip(drawn, intervals(axes), strict=True):
        rows = table[table["method"] == name]
        np.testing.assert_allclose(drawn[name][1], 100 * rows["fg"])
        np.testing.assert_allclose(span, 100 * rows[["low", "high"]])
        assert abs(drawn[name][0] - rows["stage"]).max() < 0.5
    looks = {
        (line.get_color(), line.get_marker(), line.get_linestyle())
        for line in axes.get_lines()
        if not str(line.get_label()).startswith("_")
    }
    assert len(looks) == n_methods
    assert clipped(figure) == []


def test_the_title_tells_of_intervals_where_there_are_any():
    table = forgetting_table(2)
    bare = table.assign(low=np.nan, high=np.nan)
    titles = [plots.forgetting_curves(part).get_suptitle() for part in (table, bare)]
    assert ["95% intervals" in title for title in titles] == [True, False]


def test_overlap_curves_show_pairs_and_chance():
    table = overlap_table(3)
    (axes,) = plots.overlap_curves(table).axes
    rows = table[(table["task_x"] == "task_0") & (table["task_y"] == "task_2")]
    x, y = lines(axes)["task 0 \u2013 task 2"]
    np.testing.assert_allclose(x, 100 * np.array(FRACTIONS))
    np.testing.assert_allclose(y, 100 * rows["iou"])
    np.testing.assert_allclose(lines(axes)["by chance"][1], 100 * rows["expected_iou"])


def test_many_pairs_become_a_crowd_with_its_mean():
    table = overlap_table(5)
    figure = plots.overlap_curves(table)
    (axes,) = figure.axes
    assert labels(figure) == ["10 pairs", "their mean", "chance, mean"]
    assert len(axes.get_lines()) == 12
    expected = table.groupby("fraction")["iou"].mean()
    np.testing.assert_allclose(lines(axes)["their mean"][1], 100 * expected)
    chance = table.groupby("fraction")["expected_iou"].mean()
    np.testing.assert_allclose(lines(axes)["chance, mean"][1], 100 * chance)


def test_similarity_has_a_panel_per_part_and_a_band_per_line():
    table = similarity_table()
    gap = (table["layer"] == 2) & (table["task_y"] == "task_1")
    table.loc[gap, ["similarity", "low", "high"]] = np.nan
    figure = plots.similarity_by_layer(table)
    assert headings(figure) == ["input weights", "output weights"]
    for axes, part in zip(figure.axes, ("W_in", "W_out"), strict=True):
        bands = [found for found in axes.collections if isinstance(found, PolyCollection)]
        for k, band in enumerate(bands):
            rows = table[(table["part"] == part) & (table["task_y"] == f"task_{k}")]
            drawn = lines(axes)[f"trained task \u2013 task {k}"]
            np.testing.assert_allclose(drawn, rows[["layer", "similarity"]].to_numpy().T)
            corners = np.concatenate([path.vertices for path in band.get_paths()])
            ends = rows[["low", "high"]].to_numpy().flatten()
            found = np.unique(corners[:, 1].round(9))
            assert set(ends[np.isfinite(ends)].round(9)) <= set(found)
        assert len(bands) == 2
    assert figure.axes[0].get_ylabel() == "cosine similarity"


def map_table(updates: tuple[int, ...]) -> pd.DataFrame:
    rows = [
        {"match": match, "fraction": fraction, "lr": lr, "updates": n, "gap": 100 * lr * n}
        for match in ("total", "layer")
        for fraction in (0.01, 0.1)
        for lr in (1e-4, 1e-3)
        for n in updates
    ]
    return with_interval(pd.DataFrame(rows), "gap")


def test_gaps_run_over_updates_or_where_these_are_one_over_rates():
    figure = plots.gap_curves(map_table((8, 16)))
    assert headings(figure)[1] == "10% of the neurons against random"
    for axes in figure.axes:
        for name, lr in (("rate 0.0001", 1e-4), ("rate 0.001", 1e-3)):
            x, y = lines(axes)[name]
            np.testing.assert_allclose(x, [8, 16], rtol=0.05)
            np.testing.assert_allclose(y, [800 * lr, 1600 * lr])
    single = plots.gap_curves(map_table((8,)))
    assert headings(single) == ["1% of the neurons", "10% of the neurons"]
    assert labels(single) == ["random", "random by layer"]
    x, y = lines(single.axes[0])["random"]
    np.testing.assert_allclose(x, [1e-4, 1e-3], rtol=0.05)
    np.testing.assert_allclose(y, [0.08, 0.8])
    assert "after 8 updates" in single.get_suptitle().replace("\n", " ")


def test_siblings_stand_beside_other_pairs_and_their_difference_apart():
    table = sibling_table()
    figure = plots.sibling_curves(table)
    left, right = figure.axes
    assert labels(figure) == ["siblings", "other pairs", "difference"]
    for axes, kinds in ((left, ("siblings", "other pairs")), (right, ("difference",))):
        for kind in kinds:
            rows = table[table["pairs"] == kind]
            np.testing.assert_allclose(lines(axes)[kind][1], rows["similarity"])
    (band,) = [found for found in right.collections if isinstance(found, PolyCollection)]
    own = table[table["pairs"] == "difference"]
    assert np.asarray(band.get_paths()[0].vertices)[:, 1].max() == pytest.approx(own["high"].max())
    with pytest.raises(ValueError, match="has no 'difference' in its column pairs"):
        plots.sibling_curves(table[table["pairs"] != "difference"])


def test_readings_and_many_pairs_of_similarity():
    both = pd.concat([similarity_table(9), similarity_table(9).assign(reading="mean")])
    figure = plots.similarity_by_layer(both)
    assert headings(figure)[:2] == ["masked, input weights", "masked, output weights"]
    assert labels(figure) == ["9 pairs", "their mean"]
    means = similarity_table(9).query("part == 'W_out'").groupby("layer")["similarity"].mean()
    np.testing.assert_allclose(lines(figure.axes[1])["their mean"][1], means)


def test_neurons_by_layer_are_bars():
    table = layer_table()
    figure = plots.neurons_by_layer(table)
    for k, axes in enumerate(figure.axes):
        own = table[table["task"] == f"task_{k}"]
        heights = [bar.get_height() for bar in bars(axes)]
        assert heights == list(own["n_neurons"])
        centres = [bar.get_x() + bar.get_width() / 2 for bar in bars(axes)]
        np.testing.assert_allclose(centres, own["layer"])
    assert y_label(figure) == "neurons"


def test_the_scatter_holds_every_neuron_also_those_at_zero():
    table = neuron_table()
    (axes,) = plots.faithfulness_scatter(table).axes
    drawn: Any = axes.collections
    for points, sample in zip(drawn, ("random", "top"), strict=True):
        rows = table[table["sample"] == sample]
        np.testing.assert_allclose(points.get_offsets(), rows[["score", "exact"]])
    low, high = axes.get_xlim()
    assert low < 0 < table["exact"].max() < high
    assert axes.get_xlim() == axes.get_ylim()
    assert 0 in axes.get_xticks()


def test_a_sample_without_any_effect_can_be_drawn():
    figure = plots.faithfulness_scatter(neuron_table().assign(score=0.0, exact=0.0))
    assert clipped(figure) == []


def test_silenced_sets_are_lines_over_their_share():
    table = set_table().sort_values("fraction")
    (axes,) = plots.faithfulness_sets(set_table()).axes
    for label, column in (("measured", "true"), ("predicted", "predicted")):
        x, y = lines(axes)[label]
        np.testing.assert_allclose(x, 100 * table["fraction"])
        np.testing.assert_allclose(y, table[column])
