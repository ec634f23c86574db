"""Write the tables of tl_taskneurons/builtin/README.md from the CSV files beside this script.

python figures/builtin_tables.py

Each table stands between a comment with its name and the comment "end".
"""

import re
from pathlib import Path

import pandas as pd
from planted import markdown as planted_markdown

from tl_taskneurons.builtin.mini.recipes import RECIPES, TOPICS, TWELVE

HERE = Path(__file__).parent
README = HERE.parent / "tl_taskneurons" / "builtin" / "README.md"


def blocks() -> dict[str, str]:
    """Return the Markdown tables by name."""
    table = pd.read_csv(HERE / "mini_deactivation.csv")
    made = {
        "scores": scores_markdown(pd.read_csv(HERE / "mini_scores.csv")),
        "means": means_markdown(pd.read_csv(HERE / "mini_deactivation_mean.csv")),
        "planted": planted_markdown(pd.read_csv(HERE / "planted.csv")),
    }
    for model, part in table.groupby("model", sort=False):
        made[f"tasks {model}"] = tasks_markdown(part)
    return made


def scores_markdown(scores: pd.DataFrame) -> str:
    """Return the rows of `minis.scores.measure` in Markdown, in percent, means at the end."""
    table = scores.pivot(index="task", columns="model", values="score")
    table = table.loc[list(RECIPES), list(scores["model"].unique())]
    rows = {
        f"{task} ({'accuracy' if RECIPES[task].labels else 'ROUGE-L'})": table.loc[task]
        for task in RECIPES
    }
    for title, members in (
        ("mean of the six classification tasks", [t for t in TWELVE if RECIPES[t].labels]),
        ("mean of the six generation tasks", [t for t in TWELVE if not RECIPES[t].labels]),
        ("mean of the four topic tasks", list(TOPICS)),
    ):
        rows[f"**{title}**"] = table.loc[members].mean()
    lines = [
        "| task | " + " | ".join(table.columns) + " |",
        "|---" * (len(table.columns) + 1) + "|",
    ]
    for title, values in rows.items():
        lines.append(f"| {title} | " + " | ".join(f"{v:.1f}" for v in 100 * values) + " |")
    return "\n".join(lines) + "\n"


def means_markdown(means: pd.DataFrame) -> str:
    """Return what silencing does on average over the tasks, in percent."""
    lines = [
        "| model | k | selection | original | random | task | own < random | "
        "own excess > 0 | own wins, score: rows, columns | loss: rows, columns | "
        "own or sibling wins, loss: rows, columns |",
        "|---" * 11 + "|",
    ]
    for row in means.to_dict("records"):
        n = row["tasks"]
        lines.append(
            f"| {row['model']} | {row['fraction']:.0%} | {row['selection']} | "
            f"{_percent(row['original'])} | {_percent(row['random'])} "
            f"[{_percent(row['random_low'])}, {_percent(row['random_high'])}] | "
            f"{_percent(row['silenced'])} | {row['below_random']} of {n} | "
            f"{row['excess_above_0']} of {n} | {row['rows']}, {row['columns']} of {n} | "
            f"{row['loss_rows']}, {row['loss_columns']} of {n} | "
            f"{row['family_rows']}, {row['family_columns']} of {n} |"
        )
    return "\n".join(lines) + "\n"


def tasks_markdown(table: pd.DataFrame) -> str:
    """Return one model's Table 1 for the plain selection: states of the model by tasks."""
    lines = [
        "| | " + " | ".join(name.removeprefix("mini_") for name in TWELVE) + " | cls. | gen. |",
        "|---" * (len(TWELVE) + 3) + "|",
    ]
    plain = table[table["selection"] == "plain"]
    for fraction, part in plain.groupby("fraction", sort=False):
        by_task = part.set_index("task").loc[list(TWELVE)]
        if len(lines) == 2:
            lines.append(_line("original", by_task["original"]))
        lines.append(_line(f"random {fraction:.0%}", by_task["random"]))
        lines.append(_line(f"task {fraction:.0%}", by_task["silenced"]))
    return "\n".join(lines) + "\n"


def _line(name: str, values: pd.Series) -> str:
    labelled = [bool(RECIPES[task].labels) for task in values.index]
    both = (values[labelled].mean(), values[[not flag for flag in labelled]].mean())
    return f"| {name} | " + " | ".join(_percent(value) for value in (*values, *both)) + " |"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def filled(text: str) -> str:
    """Return a README with every named table replaced by the one made of the CSV files."""
    for name, table in blocks().items():
        pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)"
        text, count = re.subn(
            pattern, lambda m, table=table: f"{m[1]}\n{table}\n{m[2]}", text, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"{README.name} has {count} places for the table {name!r}; needs one.")
    return text


def main() -> None:
    """Rewrite the README."""
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
