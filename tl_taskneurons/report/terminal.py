"""What a run shows: tables for the terminal, and figures as files. No torch here."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tl_taskneurons import plots
from tl_taskneurons.plots import describe
from tl_taskneurons.runtime.console import printable
from tl_taskneurons.runtime.roles import current_role
from tl_taskneurons.runtime.run_folder import RunFolder

_MINUS = "\u2212"
RELIABILITY = "split-half: share of the neurons that return when half the examples choose them"


def detection_report(layers: pd.DataFrame) -> list[Table]:
    """Say for each selection how many neurons each task has, and in which layers most of them are.

    Args:
        layers: the table of ``runs.detect``.
    """
    tables: list[Table] = []
    for selection, part in layers.groupby("selection", sort=False):
        table = _table(describe(str(selection), float(part["fraction"].iloc[0])))
        told = _tells_reliability(part)
        for heading in ("task", "neurons", *told * ["split-half"], "layers with most (share)"):
            is_number = heading in ("neurons", "split-half")
            table.add_column(heading, justify="right" if is_number else "left")
        for task, rows in part.groupby("task", sort=False):
            most = rows.sort_values(["n_neurons", "layer"], ascending=[False, True]).head(4)
            most = most[most["n_neurons"] > 0]
            listed = [
                f"{layer} ({share:.0%})"
                for layer, share in zip(most["layer"], most["share"], strict=True)
            ]
            cells = [f"{rows['n_neurons'].sum():,}"]
            if told:
                cells.append(f"{_percent(rows['split_half'].iloc[0])}%")
            table.add_row(printable(task), *cells, ", ".join(listed))
        if told:
            table.caption = RELIABILITY
        tables.append(table)
    return tables


def deactivation_report(table: pd.DataFrame, *, wide: bool = False) -> list[Table]:
    """Original score, and what silencing random neurons and each task's own neurons leaves of it.

    Args:
        table: ``deactivation_table`` with the columns ``selection`` and ``fraction``.
        wide: add the losses (about 110 characters instead of 80); tasks judged by loss alone
            always show them.
    """
    losses = wide or bool(table["original"].isna().any())
    tables: list[Table] = []
    for selection, part in table.groupby("selection", sort=False):
        shown = _table(describe(str(selection), float(part["fraction"].iloc[0])))
        shown.add_column("task", no_wrap=True)
        told = _tells_reliability(part)
        headings = ["neurons,\nsplit-half" if told else "neurons"]
        headings += ["original", "random [95%]", "own silenced", "others'\ndrop"]
        headings += ["speci-\nficity"] + losses * ["loss: own", "random", "others"]
        for heading in headings:
            shown.add_column(heading, justify="right")
        for row in part.to_dict("records"):
            cells: list[str | Text] = [
                f"{row['n_neurons']:,}" + (f" {_percent(row['split_half'])}%" * told),
                _percent(row["original"]),
                _percent(row["random"]) + _interval(row["random_low"], row["random_high"]),
                _percent(row["silenced"])
                + _interval(row["silenced_low"], row["silenced_high"]),
                _percent(row["others_drop"]),
                Text(_percent(row["specificity"]), style="bold"),
            ]  # fmt: skip
            rises = ("loss_rise", "loss_rise_random", "loss_rise_others")
            cells += [_nats(row[name]) for name in rises] if losses else []
            shown.add_row(printable(row["task"]), *cells)
        metrics = ", ".join(part["metric"].unique())
        shown.caption = f"{metrics} in %, drops in points" + (
            "; loss: its rise in nats per token" if losses else ""
        )
        tables.append(shown)
    return tables


def draw(run: RunFolder, layers: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> list[Path]:
    """Draw every figure that the tables allow, as PNG files in the run folder.

    Args:
        run: the folder.
        layers: the table of ``detect``.
        tables: the tables of ``deactivate``; empty for detection alone.

    Returns:
        The files, the most telling first.
    """
    figures: dict[str, Callable[[], Figure]] = {}
    selections = list(layers["selection"].unique())
    contrasts = [name for name in selections if name != "plain"]
    column = "loss_change"
    if tables and tables["matrix"]["change"].notna().all():
        column = "change"
    if tables and contrasts and "plain" in selections:
        pair = ("plain", contrasts[0])
        figures["overview"] = lambda: plots.demo_figure(layers, tables["matrix"], pair, column)
    for name in selections:
        own = {key: table[table["selection"] == name] for key, table in tables.items()}
        if own:
            figures[f"matrix-{name}"] = lambda own=own: plots.deactivation_heatmap(
                own["matrix"], column
            )
            if column == "change":
                figures[f"bars-{name}"] = lambda own=own: plots.deactivation_bars(own["table"])
        part = layers[layers["selection"] == name]
        figures[f"layers-{name}"] = lambda part=part: plots.score_heatmap(part)
    files = []
    for name, make in figures.items():
        files.append(run.file(f"{name}.png"))
        if current_role().leads:
            plots.save(make(), files[-1])
    return files


def _tells_reliability(table: pd.DataFrame) -> bool:
    return "split_half" in table.columns and bool(table["split_half"].notna().any())


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", caption_justify="left",
        box=SIMPLE_HEAD, pad_edge=False, padding=0,
    )  # fmt: skip


def _percent(value: float) -> str:
    if pd.isna(value):
        return "-"
    text = f"{100 * value:.0f}"
    return "0" if text == "-0" else text.replace("-", _MINUS)


def _interval(low: float, high: float) -> str:
    return "" if pd.isna(low) else f" [{_percent(low)}, {_percent(high)}]"


def _nats(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:+.2f}".replace("-", _MINUS)
