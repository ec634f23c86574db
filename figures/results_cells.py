"""What the tables of RESULTS.md share: the CSV files of a model, and how numbers are written."""

from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
# Folders of what was asked by commands of their own, and how these differ from the rest.
FAMILIES, LONGER, LONGEST, ROWS = "families", "longer", "longest", "rows"
ASIDE = {
    FAMILIES: "more families", LONGER: "more updates", LONGEST: "most updates",
    ROWS: "chosen rates",
}  # fmt: skip


def command(experiment: str) -> str:
    """The command that makes a table alone; the rest of it is under "How it was done"."""
    return f"`... --only {experiment}`\n"


def each(models: list[str], name: str) -> list[tuple[str, pd.DataFrame]]:
    """A table of every model that has it."""
    found = [(model, read(name, model)) for model in models]
    return [(model, table) for model, table in found if table is not None]


def of_families(models: list[str], name: str) -> list[tuple[str, pd.DataFrame]]:
    """A table of every model that was asked of more families."""
    return each(models, f"{FAMILIES}/{name}")


def with_aside(models: list[str], name: str) -> list[tuple[str, pd.DataFrame]]:
    """A table of every model that has it, then those of commands of their own, with their names."""
    aside = [
        (f"{model}, {said}", table)
        for folder, said in ASIDE.items()
        for model, table in each(models, f"{folder}/{name}")
    ]
    return [*each(models, name), *aside]


def if_filled(lines: list[str], n_rows: int = 0) -> str:
    """The lines as text; nothing where there are no rows but the paper's."""
    rule = next(k for k, line in enumerate(lines) if line.startswith("|---"))
    return "\n".join(lines) + "\n" if len(lines) - rule - 1 > n_rows else ""


def score_cells(part: pd.DataFrame, columns: tuple[str, ...]) -> list[str]:
    """Means over classification tasks (accuracy), then over generation tasks, in percent."""
    classes = part["metric"] == "accuracy"
    return [
        number(100 * part.loc[kind, column].mean())
        for kind in (classes, ~classes)
        for column in columns
    ]


def number(value: float) -> str:
    """One decimal; nothing for NaN."""
    return "" if pd.isna(value) else f"{value:.1f}"


def percent(row: pd.Series, name: str) -> str:
    """A share with its interval, in percent."""
    return span(row, name, f"{name}_low", f"{name}_high")


def span(row: pd.Series, *columns: str) -> str:
    """The value, lower and upper end that the columns hold, in percent."""
    value, low, high = (100 * row[column] for column in columns)
    if pd.isna(value):
        return ""
    return f"{value:.1f}" if pd.isna(low) else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def read(table: str, model: str) -> pd.DataFrame | None:
    """A table of a model; None where it was not run."""
    file = HERE / f"{table}_{model}.csv"
    return pd.read_csv(file) if file.exists() else None
