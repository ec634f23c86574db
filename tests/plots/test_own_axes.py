"""Every plot can be drawn into axes of the caller's, and shows itself in a notebook once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests import plotting
from tl_taskneurons import plots
from tl_taskneurons.plots.canvas import Picture

# marsilea lays out a figure of its own; the other two draw nothing.
WITHOUT = {"upset_plot", "save", "describe"}


def curve_table() -> pd.DataFrame:
    rows = [
        {"ranking": "ours", "curve": curve, "task": "sst2", "fraction": share, "value": share,
         "faithfulness": 1 - share}
        for curve in ("necessity", "sufficiency", "harm")
        for share in (0.0, 0.01, 0.1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def tried_table() -> pd.DataFrame:
    return pd.DataFrame(
        {"outside": 0.01, "step": "grow", "n_neurons": [1, 2, 4], "kept": True,
         "taken": [0.1, 0.4, 0.9], "harm": [0.0, 0.01, 0.02]}
    )  # fmt: skip


def gap_table() -> pd.DataFrame:
    rows = [
        {"match": match, "fraction": 0.1, "lr": 1e-3, "updates": updates, "gap": 0.1}
        for match in ("total", "layer")
        for updates in (8, 16)
    ]
    return plotting.with_interval(pd.DataFrame(rows), "gap")


def planted_table() -> pd.DataFrame:
    rows = [
        {"mlp": "plain", "noise": noise, "overlap": overlap, "method": "exact", "precision": 0.5}
        for noise in (0.0, 0.1, 0.2)
        for overlap in (0.0, 0.5)
    ]
    return plotting.with_interval(pd.DataFrame(rows), "precision")


def score_table() -> pd.DataFrame:
    return pd.DataFrame({"layer": [0, 0, 1, 1], "neuron": [0, 1, 0, 1], "score": [1, 2, 3, 0.5]})


def bar_table() -> pd.DataFrame:
    table = pd.DataFrame({"task": ["a", "b"], "metric": "accuracy"})
    for name in ("original", "random", "silenced"):
        table = table.assign(**{name: 0.5, f"{name}_low": 0.4, f"{name}_high": 0.6})
    return table


def demo(ax: Any = None) -> Figure:
    both = [(plotting.layer_table(), "share"), (plotting.silencing_table(), "change")]
    layers, matrix = (
        pd.concat([table.assign(selection=name) for name in ("plain", "exclusive")])
        for table, _ in both
    )
    return plots.demo_figure(layers, matrix, ax=ax)


def found(ax: Any = None) -> Figure:
    table = plotting.silencing_table().assign(n_neurons=40)
    parts = {"plain": table, "exclusive": table, "found": table[table["silenced"] == "task_1"]}
    matrix = pd.concat([part.assign(selection=name) for name, part in parts.items()])
    return plots.found_figure(matrix, tried_table(), ax=ax)


def of(function: Callable[..., Figure], table: Callable[[], pd.DataFrame]) -> Any:
    return lambda **options: function(table(), **options)


# What draws, and how many panels it makes.
PANELS: dict[str, tuple[Callable[..., Figure], int]] = {
    "ablation_curves": (of(plots.ablation_curves, curve_table), 3),
    "controlled_overlap_curves": (
        of(plots.controlled_overlap_curves, plotting.controlled_table), 2,
    ),
    "deactivation_bars": (of(plots.deactivation_bars, bar_table), 1),
    "deactivation_heatmap": (of(plots.deactivation_heatmap, plotting.silencing_table), 1),
    "demo_figure": (demo, 4),
    "faithfulness_scatter": (of(plots.faithfulness_scatter, plotting.neuron_table), 1),
    "faithfulness_sets": (of(plots.faithfulness_sets, plotting.set_table), 1),
    "forgetting_curves": (of(plots.forgetting_curves, plotting.forgetting_table), 1),
    "found_figure": (found, 4),
    "gap_curves": (of(plots.gap_curves, gap_table), 2),
    "neurons_by_layer": (of(plots.neurons_by_layer, plotting.layer_table), 4),
    "overlap_curves": (of(plots.overlap_curves, plotting.overlap_table), 1),
    "overlap_heatmap": (of(plots.overlap_heatmap, plotting.one_overlap_table), 1),
    "recovery_curves": (of(plots.recovery_curves, planted_table), 2),
    "score_heatmap": (of(plots.score_heatmap, plotting.layer_table), 1),
    "score_map": (of(plots.score_map, score_table), 1),
    "search_curve": (of(plots.search_curve, tried_table), 2),
    "share_curves": (of(plots.share_curves, plotting.share_table), 2),
    "sibling_curves": (of(plots.sibling_curves, plotting.sibling_table), 2),
    "similarity_by_layer": (of(plots.similarity_by_layer, plotting.similarity_table), 2),
    "training_heatmap": (of(plots.training_heatmap, plotting.training_table), 1),
}  # fmt: skip


def drawn(axes: Axes) -> int:
    return sum(map(len, (axes.lines, axes.images, axes.collections, axes.patches, axes.texts)))


def test_no_plot_is_left_out():
    assert {*PANELS} == {*plots.__all__} - WITHOUT


@pytest.mark.parametrize("name", PANELS)
def test_lent_axes_are_drawn_into_and_the_rest_stays(name: str):
    draw, n_panels = PANELS[name]
    figure = Figure(figsize=(9, 3))
    figure.suptitle("mine")
    lent = figure.subplots(1, n_panels + 1, squeeze=False)[0]
    given = lent[0] if n_panels == 1 else lent[:n_panels]
    assert draw(ax=given) is figure
    assert all(drawn(axes) for axes in lent[:n_panels])
    assert not drawn(lent[-1])
    assert figure.get_suptitle() == "mine"
    assert not figure.legends
    assert tuple(figure.get_size_inches()) == (9, 3)
    with pytest.raises(ValueError, match=rf"ax has {n_panels + 1} axes, and this makes"):
        draw(ax=list(lent))


def test_axes_of_a_part_of_a_figure():
    figure = Figure()
    left: Any = figure.subfigures()
    assert PANELS["score_map"][0](ax=left.subplots()) is figure


def test_one_of_several_curves_can_be_chosen():
    axes = Figure().subplots()
    plots.ablation_curves(curve_table(), curve="harm", ax=axes)
    assert "other tasks" in axes.get_title(loc="left")
    with pytest.raises(ValueError, match="curve is 'price'"):
        plots.ablation_curves(curve_table(), curve="price", ax=axes)
    plots.search_curve(tried_table(), ax=(taken := Figure().subplots()))
    assert taken.get_ylabel() == "taken of the task (%)"


def test_the_curves_of_two_tasks_are_no_one_line():
    both = pd.concat([curve_table(), curve_table().assign(task="mnli")])
    with pytest.raises(ValueError, match=r"curves of 2 tasks \(sst2, mnli\)"):
        plots.ablation_curves(both)
    of_others = curve_table().query("curve == 'harm'").assign(task="mnli")
    plots.ablation_curves(pd.concat([curve_table(), of_others]))


def test_no_axes_are_told():
    with pytest.raises(TypeError):
        plots.score_map(score_table(), ax="left")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("with_pyplot", [False, True])
def test_a_notebook_shows_a_figure_once(with_pyplot: bool):
    figure = PANELS["score_map"][0]()
    assert isinstance(figure, Picture)
    formatter: Any = DisplayFormatter()
    if with_pyplot:  # what %matplotlib inline adds
        formatter.formatters["image/png"].for_type(Figure, lambda _: b"by pyplot")
    shown, facts = formatter.format(figure)
    assert [kind for kind in shown if kind.startswith("image/")] == ["image/png"]
    if with_pyplot:
        assert shown["image/png"] == b"by pyplot"
    else:
        assert shown["image/png"].startswith(b"\x89PNG")
        width, height = figure.get_size_inches() * figure.dpi
        assert facts["image/png"] == {"width": round(width), "height": round(height)}


def test_what_a_search_found_stands_beside_the_selections_on_one_scale():
    figure = found()
    left, middle, right, growth, *_ = figure.axes
    images = [axes.get_images()[0] for axes in (left, middle, right)]
    assert len({image.get_clim() for image in images}) == 1
    shapes = [np.asarray(image.get_array()).shape for image in images]
    assert (shapes[0], shapes[2]) == ((3, 3), (1, 3))
    # Its columns begin with the task that was searched for.
    assert right.get_xticklabels()[0].get_text() == "task 1"
    assert right.get_title(loc="left") == "Found: 40 neurons"
    drawn_lines = plotting.lines(growth)
    assert drawn_lines["taken of the task"][1].tolist() == [10, 40, 90]
    assert drawn_lines["lost by the others"][1].tolist() == [0, 1, 2]
    assert not plotting.clipped(figure)
