from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle
from plotting import clipped, images, texts

from tl_taskneurons import plots
from tl_taskneurons.evaluation.tables import deactivation_matrix, deactivation_table
from tl_taskneurons.neurons.scores import NeuronScores

TASKS = ["present_past", "city_country", "word_category"]


def items() -> pd.DataFrame:
    """Silencing a task's neurons breaks the task; random ones break a little."""
    rng = np.random.default_rng(0)
    rows = []

    def add(silenced: str, kind: str, seed: int, task: str, share: float, loss: float) -> None:
        rows.extend(
            {"task": task, "metric": "exact_match", "item": i, "score": float(i < 20 * share),
             "loss": loss + 0.1 * rng.normal(), "n_truncated": 0, "silenced": silenced,
             "kind": kind, "seed": seed, "n_neurons": 7}
            for i in range(20)
        )  # fmt: skip

    for k, task in enumerate(TASKS):
        add("", "none", -1, task, 0.9 - 0.1 * k, 1.0)
        for other in TASKS:
            own = task == other
            add(task, "task", -1, other, 0.1 if own else 0.7, 5.0 if own else 1.2)
        for seed in range(3):
            add(task, "random", seed, task, 0.6, 1.3)
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def matrix() -> pd.DataFrame:
    both = [deactivation_matrix(items()).assign(selection=s) for s in ("plain", "exclusive")]
    both[0]["change"] -= 0.05
    return pd.concat(both, ignore_index=True).assign(fraction=0.01)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return deactivation_table(items()).assign(selection="exclusive", fraction=0.01)


@pytest.fixture(scope="module")
def layers() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    frames = []
    for selection in ("plain", "exclusive"):
        for task in TASKS:
            counts = rng.integers(0, 9, 12)
            frames.append(
                pd.DataFrame(
                    {
                        "selection": selection,
                        "task": task,
                        "layer": range(12),
                        "n_neurons": counts,
                        "share": counts / counts.sum(),
                        "score_share": 1 / 12,
                    }
                )  # fmt: skip
            )
    return pd.concat(frames, ignore_index=True).assign(fraction=0.01)


def only(frame: pd.DataFrame, selection: str) -> pd.DataFrame:
    return frame[frame["selection"] == selection]


def test_layers_are_drawn_as_in_the_table(layers: pd.DataFrame, tmp_path: Path):
    part = only(layers, "plain")
    figure = plots.score_heatmap(part)
    (image,) = images(figure)
    expected = 100 * part["share"].to_numpy().reshape(3, 12)
    np.testing.assert_allclose(image.get_array(), expected)
    assert image.get_clim() == (0, pytest.approx(expected.max()))
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == [t.replace("_", " ") for t in TASKS]
    assert axes.get_xlabel() == "layer"
    assert figure.axes[1].get_ylabel() == "% of the task's neurons"
    plots.save(figure, tmp_path / "new" / "f.png")
    assert (tmp_path / "new" / "f.png").read_bytes().startswith(b"\x89PNG")
    shuffled = plots.score_heatmap(part.sample(frac=1, random_state=0))
    order = [text.get_text().replace(" ", "_") for text in shuffled.axes[0].get_yticklabels()]
    by_layer = np.array([expected[TASKS.index(task)] for task in order])
    np.testing.assert_allclose(images(shuffled)[0].get_array(), by_layer)
    mass = plots.score_heatmap(part, column="score_share")
    np.testing.assert_allclose(images(mass)[0].get_array(), 100 / 12)
    assert "score" in mass.axes[1].get_ylabel()


@pytest.mark.parametrize(
    ("column", "factor", "unit"), [("loss_change", 1, "nats"), ("change", 100, "percentage points")]
)
def test_a_matrix_shows_its_numbers_its_scale_and_its_diagonal(
    matrix: pd.DataFrame, column: str, factor: int, unit: str
):
    part = only(matrix, "exclusive")
    figure = plots.deactivation_heatmap(part, column)
    (image,) = images(figure)
    expected = factor * part[column].to_numpy().reshape(3, 3)
    np.testing.assert_allclose(image.get_array(), expected)
    low, high = image.get_clim()
    assert low == -high == pytest.approx(-np.abs(expected).max())
    axes = figure.axes[0]
    shown = [text.replace("\u2212", "-") for text in texts(axes)]
    assert len(shown) == 18  # a number and an interval in each cell
    rounding = 0.51 if factor == 100 else 0.0051
    np.testing.assert_allclose(np.array(shown[::2], float), expected.flatten(), atol=rounding)
    lows = part["low" if factor == 100 else "loss_low"].to_numpy() * factor
    found = [float(text.split(" to ")[0]) for text in shown[1::2]]
    np.testing.assert_allclose(found, lows, atol=rounding)
    frames = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert [frame.get_xy() for frame in frames] == [(k - 0.5, k - 0.5) for k in range(3)]
    assert unit in figure.axes[1].get_ylabel()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("evaluated on", "neurons silenced")
    assert clipped(figure) == []


@pytest.mark.parametrize("column", ["loss_change", "change"])
def test_red_is_what_hurts(matrix: pd.DataFrame, column: str):
    (image,) = images(plots.deactivation_heatmap(only(matrix, "exclusive"), column))
    red, _, blue, _ = image.to_rgba(image.get_array())[0, 0]
    assert red > 2 * blue


def in_nats(metric: str, sign: int) -> pd.DataFrame:
    """The items with their loss, or its negative, for their score."""
    frame = items()
    return frame.assign(metric=metric, score=sign * frame["loss"])


@pytest.mark.parametrize(
    ("metric", "sign", "unit"),
    [("loss", 1, "loss (nats per token"), ("log_prob", -1, "log_prob (nats"), ("own", -1, "own")],
)
def test_what_is_no_share_keeps_its_unit_and_red_still_hurts(metric: str, sign: int, unit: str):
    matrix = deactivation_matrix(in_nats(metric, sign))
    figure = plots.deactivation_heatmap(matrix, "change")
    (image,) = images(figure)
    np.testing.assert_allclose(image.get_array(), matrix["change"].to_numpy().reshape(3, 3))
    red, _, blue, _ = image.to_rgba(image.get_array())[0, 0]
    assert red > 2 * blue
    bar = figure.axes[1].get_ylabel()
    assert bar.startswith(f"change of {unit}") and "points" not in bar
    table = deactivation_table(in_nats(metric, sign))
    axes = plots.deactivation_bars(table).axes[0]
    assert axes.get_ylabel().startswith(unit) and "%" not in axes.get_ylabel()
    assert ("less is better" in axes.get_ylabel()) == (metric == "loss")
    lines: Any = axes.collections
    np.testing.assert_allclose(
        np.array(lines[2].get_segments())[:, :, 1], table[["silenced_low", "silenced_high"]]
    )
    low, high = sorted((0, sign * 5))
    assert axes.get_ylim()[0] <= low and high <= axes.get_ylim()[1] < 10


def test_probabilities_are_shares(matrix: pd.DataFrame, table: pd.DataFrame):
    part = only(matrix, "exclusive").assign(metric="prob")
    label = plots.deactivation_heatmap(part, "change").axes[1].get_ylabel()
    assert label == "change of prob (percentage points)"
    assert plots.deactivation_bars(table.assign(metric="prob")).axes[0].get_ylim() == (0, 105)


def test_a_unit_that_a_file_left_empty_is_none():
    matrix = deactivation_matrix(in_nats("own", -1)).assign(unit=np.nan)
    assert plots.deactivation_heatmap(matrix, "change").axes[1].get_ylabel() == "change of own"


def test_scores_in_different_units_are_refused(matrix: pd.DataFrame, table: pd.DataFrame):
    mixed, better = ["exact_match", "loss", "loss"], [None, "lower", "lower"]
    part = only(matrix, "exclusive").assign(better=3 * better)
    with pytest.raises(ValueError, match=r"metrics \['exact_match', 'loss'\], .* same unit"):
        plots.deactivation_heatmap(part.assign(metric=3 * mixed), "change")
    plots.deactivation_heatmap(part.assign(metric=3 * mixed))  # losses are alike
    with pytest.raises(ValueError, match="not counted in the same unit"):
        plots.deactivation_bars(table.assign(metric=mixed, better=better))


def test_bars_have_the_table_heights_and_intervals(table: pd.DataFrame):
    figure = plots.deactivation_bars(table)
    axes = figure.axes[0]
    containers: Any = getattr(axes, "containers")  # noqa: B009
    heights = [[bar.get_height() for bar in group] for group in containers[::2]]
    expected = 100 * table[["original", "random", "silenced"]].to_numpy().T
    np.testing.assert_allclose(heights, expected)
    drawn: Any = axes.collections
    for column, lines in zip(("original", "random", "silenced"), drawn, strict=True):
        span = 100 * table[[f"{column}_low", f"{column}_high"]]
        np.testing.assert_allclose(np.array(lines.get_segments())[:, :, 1], span, atol=1e-12)
    assert axes.get_ylabel() == "exact match (%)"
    assert clipped(figure) == []


def test_intervals_beyond_all_scores_are_drawn_as_far_as_scores_go(table: pd.DataFrame):
    wide = table.assign(random=0.5, random_low=-3.9, random_high=4.9)
    figure = plots.deactivation_bars(wide)
    figure.draw_without_rendering()  # a warning, which is an error, where no room is left
    lines: Any = figure.axes[0].collections[1]
    np.testing.assert_allclose(np.array(lines.get_segments())[:, :, 1], [[0, 100]] * len(wide))
    assert clipped(figure) == []


def test_the_demo_figure_puts_both_selections_on_one_scale(
    layers: pd.DataFrame, matrix: pd.DataFrame
):
    figure = plots.demo_figure(layers, matrix)
    above, below, middle, right = images(figure)
    for image, selection in ((above, "plain"), (below, "exclusive")):
        shares = only(layers, selection)["share"].to_numpy().reshape(3, 12)
        np.testing.assert_allclose(image.get_array(), 100 * shares)
    for image, selection in ((middle, "plain"), (right, "exclusive")):
        changes = only(matrix, selection)["change"].to_numpy().reshape(3, 3)
        np.testing.assert_allclose(image.get_array(), 100 * changes)
    assert above.get_clim() == below.get_clim()
    assert middle.get_clim() == right.get_clim()
    titles = [axes.get_title(loc="left") for axes in figure.axes[:4]]
    assert titles[0] == titles[2] == "Plain: the top 1% of each task"
    assert titles[1] == titles[3] == "Exclusive: in the top 1% of this task alone"
    assert clipped(figure) == []


def test_a_single_item_has_no_interval_to_draw(matrix: pd.DataFrame, table: pd.DataFrame):
    bare = only(matrix, "plain").assign(loss_low=np.nan, loss_high=np.nan)
    assert len(texts(plots.deactivation_heatmap(bare).axes[0])) == 9
    FigureCanvasAgg(
        plots.deactivation_bars(table.assign(random_low=np.nan, random_high=np.nan))
    ).draw()


def test_no_change_at_all_is_drawn_white(matrix: pd.DataFrame):
    (image,) = images(
        plots.deactivation_heatmap(only(matrix, "plain").assign(change=0.0), "change")
    )
    assert image.to_rgba(image.get_array())[..., :3].min() > 0.95


def test_tables_that_cannot_be_drawn_are_refused(
    layers: pd.DataFrame, matrix: pd.DataFrame, table: pd.DataFrame
):
    one = only(matrix, "plain")
    with pytest.raises(ValueError, match="two rows for silenced 'present_past'"):
        plots.deactivation_heatmap(matrix)
    with pytest.raises(ValueError, match="'mystery'"):
        plots.deactivation_heatmap(one.assign(mystery=1.0), "mystery")
    with pytest.raises(ValueError, match=r"lacks the columns \['share'\]"):
        plots.score_heatmap(only(layers, "plain").drop(columns="share"))
    with pytest.raises(ValueError, match="0 rows"):
        plots.deactivation_heatmap(one.iloc[:0])
    with pytest.raises(ValueError, match="loss"):
        plots.deactivation_bars(table.assign(original=np.nan))
    with pytest.raises(ValueError, match="loss"):
        plots.deactivation_heatmap(one.assign(change=np.nan), "change")
    with pytest.raises(ValueError, match="no rows of the selection 'exclusive'"):
        plots.demo_figure(only(layers, "plain"), one)


def test_layers_of_signed_scores_are_drawn_by_size():
    values = torch.tensor([[1.0, -2.0], [-3.0, 2.0]])
    signed = NeuronScores(values, "m", "a", "grad_act", {"signed": True})
    (image,) = images(plots.score_heatmap(signed))
    np.testing.assert_allclose(image.get_array(), [[100 * 3 / 8, 100 * 5 / 8]])
