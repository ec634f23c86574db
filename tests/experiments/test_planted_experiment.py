from typing import Any

import pandas as pd
import pytest

from tl_taskneurons import plots
from tl_taskneurons.experiments.studies import planted

GOOD = ("grad_act", "grad_act_abs", "grad_act_mean", "integrated_gradients", "exact")
PLAN = planted.Plan(seeds=1, tasks=2, neurons=6, d_mlp=24, examples=8)


@pytest.mark.parametrize("mlp", ["gated", "plain"])
@pytest.mark.parametrize("overlap", [0.0, 1.0])
def test_without_noise_every_method_but_the_baselines_finds_all(mlp, overlap):
    rows = planted.score_methods(planted.Point(mlp, 0.0, overlap, 0), PLAN)
    assert tuple(rows["method"]) == planted.COMPARED
    assert (rows["precision"] == rows["recall"]).all()
    good = rows[rows["method"].isin(GOOD)]
    assert (good["precision"] == 1.0).all() and (good["exact"] == 1.0).all()
    assert (good["distractors"] == 0.0).all()
    loud = rows[rows["method"].isin(["activation", "frequency"])]
    assert (loud["precision"] == 0.0).all() and (loud["distractors"] > 0.5).all()
    assert (rows["accuracy"] == 1.0).all()


def test_every_point_once_and_both_sweeps():
    plan = planted.Plan(noises=(0.0, 0.1), overlaps=(0.0, 0.5), seeds=2)
    points = list(plan.points())
    settings = {(point.noise, point.overlap) for point in points}
    assert settings == {(0.0, 0.0), (0.1, 0.0), (0.1, 0.5)}
    assert len(set(points)) == len(points) == len({point.unit for point in points}) == 12


def made_up(point: planted.Point) -> pd.DataFrame:
    """What a method that noise confuses would give."""
    precision = 1.0 if point.noise == 0 else 0.25 * (1 + point.seed)
    return pd.DataFrame(
        [{"mlp": point.mlp, "noise": point.noise, "overlap": point.overlap, "seed": point.seed,
          "method": "grad_act", "precision": precision, "recall": precision,
          "distractors": 0.0, "exact": 1.0, "accuracy": 1.0}]
    )  # fmt: skip


def test_command_goes_on_where_it_stopped_and_averages_over_seeds(tmp_path, monkeypatch):
    command = ["--seeds", "2", "--noises", "0", "0.4", "--overlaps", "0", "--out", str(tmp_path)]
    done: list[planted.Point] = []

    def stopping(point: planted.Point, plan: planted.Plan) -> pd.DataFrame:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(point)
        return made_up(point)

    monkeypatch.setattr(planted, "score_methods", stopping)
    with pytest.raises(KeyboardInterrupt):
        planted.main(command)
    monkeypatch.setattr(
        planted, "score_methods", lambda point, plan: done.append(point) or made_up(point)
    )
    planted.main(command)
    assert len(done) == len(set(done)) == 2 * 3 * 2  # kinds x noises (0.1 too) x seeds
    table = pd.read_parquet(tmp_path / "planted.parquet")
    assert list(table["n_seeds"]) == [2] * 6
    noisy = table[table["noise"] == 0.4]
    assert list(noisy["precision"]) == [0.375, 0.375]
    assert noisy[["low", "high"]].isna().all(axis=None)  # two seeds are too few


def test_figure_has_a_panel_for_each_kind_and_sweep():
    points = planted.Plan(noises=(0.0, 0.1, 0.4), overlaps=(0.0, 0.5), seeds=2).points()
    table = planted.summary(pd.concat([made_up(point) for point in points]))
    figure = plots.recovery_curves(table)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        f"{kind} MLP, growing {what}"
        for kind in ("gated", "plain")
        for what in ("noise", "overlap, noise 0.1")
    ]
    curves: list[Any] = list(figure.axes[0].lines)
    heights = [line.get_ydata() for line in curves if len(line.get_xdata()) == 3]
    assert list(heights[0]) == [1.0, 0.375, 0.375]
    with pytest.raises(ValueError, match="lacks the columns"):
        plots.recovery_curves(table.drop(columns="overlap"))
