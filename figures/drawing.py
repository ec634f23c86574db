"""What the scripts of the figures share: find the tables, draw each, write PNG and PDF."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.plots import save

HERE = Path(__file__).parent


def main(
    figure: str,
    pattern: str,
    draw: Callable[[pd.DataFrame], Figure],
    command: str,
    *,
    split: Sequence[str] = ("model",),
    arguments: Sequence[str] | None = None,
) -> int:
    """Draw a figure from each of its tables; return the exit status.

    Args:
        figure: its name, with which its files begin.
        pattern: of the tables' names, with one star, e.g. ``"figure2_*.csv"``.
        draw: makes the figure.
        command: makes a table; named where there is none.
        split: a table with several values in one of these columns makes several figures.
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(description=f"Draw {figure} as PNG and PDF.")
    parser.add_argument("--table", type=Path, help=f"a table; by default every figures/{pattern}")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the pictures")
    given = parser.parse_args(arguments)
    if given.table is not None and not given.table.is_file():
        print(f"{figure}: there is no table {given.table}.", file=sys.stderr)
        return 1
    tables = sorted(HERE.glob(pattern)) if given.table is None else [given.table]
    if not tables:
        print(f"{figure}: skipped, there is no figures/{pattern} yet. To make it:\n    {command}")
    before, after = pattern.split("*")
    for table in tables:
        name = table.name.removeprefix(before).removesuffix(after).removesuffix(table.suffix)
        for part, frame in _parts(pd.read_csv(table), split):
            made = draw(frame)
            for suffix in (".png", ".pdf"):
                save(made, given.out / f"{figure}_{name}{part}{suffix}")
            print(f"{figure}: {given.out / f'{figure}_{name}{part}'}.png, .pdf")
    return 0


def _parts(table: pd.DataFrame, split: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The parts of a table that make a figure each, with what their names end in."""
    several = [name for name in split if name in table.columns and table[name].nunique() > 1]
    if not several:
        yield "", table
        return
    for key, part in table.groupby(several, sort=False):
        yield "".join(f"_{value}" for value in key), part
