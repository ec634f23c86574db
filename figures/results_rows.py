"""The tables of RESULTS.md on tasks in a row, and on what everything took."""

import pandas as pd
from results_cells import ASIDE, ROWS, command, if_filled, percent, span, with_aside

# Presets whose plan may be there, beside a run or alone.
PLANNED = ("hour", "mini", "real")
# Mean score after the last stage in percent, orders 1-3 (Table 5).
PAPER_TABLE5 = {
    "seq-ft": 47.1, "seq-lora": 53.8, "epi": 48.4, "o-lora": 76.1, "ncft": 71.3, "w-ncft": 73.3,
    "per-task": 77.2,
}  # fmt: skip


def before_rows(models: list[str]) -> str:
    """What models know of the tasks before any row."""
    lines = [
        "### Before tasks in a row: what the model knows of them\n",
        command("table5"),
        "Scores in % on the rows' test examples, with the 95% interval, before anything "
        "of a row is trained. `base` is the model as it is, `primed` the one that rows start "
        "from, in which the labels are known. Where fewer test examples are different than were "
        "asked, seeds share some.\n",
        "| model | task | labels | test examples: asked | different | guessing | base | primed "
        "| loss: base | primed |",
        "|---" * 10 + "|",
    ]
    for model, table in with_aside(models, "table5_start"):
        for (instructions, task), part in table.groupby(["instructions", "task"], sort=False):
            rows = part.set_index("start")
            known = [name for name in ("base", "primed") if name in rows.index]
            first = rows.loc[known[0]]
            spans = {name: span(rows.loc[name], "score", "low", "high") for name in known}
            losses = {name: f"{rows.loc[name, 'loss']:.2f}" for name in known}
            cells = [
                found.get(name, "") for found in (spans, losses) for name in ("base", "primed")
            ]
            lines.append(
                f"| {model} | {task}, {instructions} instructions | {first['labels']} | "
                f"{first['n']} | {first['different']} | "
                f"{100 * first['guessing']:.1f} | {' | '.join(cells)} |"
            )
    return if_filled(lines)


def tasks_in_a_row(models: list[str]) -> str:
    """Table 5: the methods, the mean over rows."""
    lines = [
        "### Table 5: tasks in a row (%)\n",
        command("table5"),
        "CL is the mean score after the last stage, alone that of each task trained by itself, "
        "kept (FG) what is left of "
        "earlier tasks, guessing taken away (empty where with some seed a task alone is not above "
        "it); with "
        "guessing is the paper's FG. Intervals are Student's t over seeds, whose ends may lie "
        "beyond 100. The first two rows of a model train nothing: the commonest answer among each "
        "seed's test examples of a task, which can't be known beforehand, and the model that rows "
        "start from.\n",
        "| model | method | rate | updates | alone | CL | kept (FG) | with guessing | paper's CL |",
        "|---" * 9 + "|",
    ]
    starts = dict(with_aside(models, "table5_start"))
    for model, table in with_aside(models, "table5"):
        means = table[table["order"] == "all"]
        for what, score in _untrained(starts.get(model)).items():
            lines.append(f"| {model} | {what} | | | | {score} | | | |")
        for _, row in means.iterrows():
            value = PAPER_TABLE5.get(row["method"], "")
            lines.append(
                f"| {model} | `{row['method']}`, {row['instructions']} instructions | "
                f"{row['lr']:.2g} | "
                f"{row['updates']:.0f} | {100 * row['alone']:.1f} | {percent(row, 'cl')} | "
                f"{percent(row, 'fg')} | {100 * row['fg_paper']:.1f} | {value} |"
            )
    return if_filled(lines)


def _untrained(start: pd.DataFrame | None) -> dict[str, str]:
    """Mean scores over tasks without any training, in percent."""
    if start is None:
        return {}
    # The model that rows start from is the primed one where there is one.
    last = start[start["start"] == start["start"].iloc[-1]]
    return {
        "commonest answer": f"{100 * last['guessing'].mean():.1f}",
        "untrained": f"{100 * last['score'].mean():.1f}",
    }


def rates_of_rows(models: list[str]) -> str:
    """The choice of each method's rate, on single tasks."""
    lines = [
        "### Table 5: learning rates\n",
        command("table5"),
        "Losses (nats per token, held-out training examples, mean over single tasks) at the end "
        "of all updates that a method may have, at each rate, the chosen one in bold; methods "
        "that learn a single task alike are together. Where the best was at an edge, the next "
        "rate was tried too. A model without rows here was given one rate.\n",
        "| model | methods | rate: loss | updates |",
        "|---" * 4 + "|",
    ]
    for model, table in with_aside(models, "table5_rates"):
        alike: dict[str, list[str]] = {}
        for (method, instructions), part in table.groupby(["method", "instructions"], sort=False):
            line = f"{rates_tried(part)} | {part['updates'].iloc[0]} |"
            alike.setdefault(f"{instructions} instructions | {line}", []).append(f"`{method}`")
        lines += [f"| {model} | {', '.join(names)}, {rest}" for rest, names in alike.items()]
    return if_filled(lines)


def rates_tried(rows: pd.DataFrame) -> str:
    """Rates with their held-out losses, the chosen one in bold."""
    return ", ".join(
        f"{'**' * row['chosen']}{row['lr']:.2g}: {row['loss']:.2f}{'**' * row['chosen']}"
        + " (at the edge)" * row["at_edge"]
        for _, row in rows.iterrows()
    )


# Methods that are told nothing of the task at test time: neurons', and those to beat.
OURS, THEIRS = ("routed", "ncft"), ("epi", "o-lora", "seq-lora", "seq-ft")


def unlabelled(models: list[str]) -> str:
    """The best method of ours beside the best of the others, by CL."""
    lines = [
        "| model | seeds | commonest answer | untrained | ours | alone | CL | paper's FG | theirs "
        "| alone | CL | paper's FG |",
        "|---" * 12 + "|",
    ]
    found, starts = (dict(with_aside(models, name)) for name in ("table5", "table5_start"))
    chosen = {name: f"{name}, {ASIDE[ROWS]}" for name in models}
    for model in (chosen[name] if chosen[name] in found else name for name in models):
        if model not in found:
            continue
        table = found[model]
        means = table[(table["order"] == "all") & (table["instructions"] == "neutral")]
        sides = [means[means["method"].isin(names)] for names in (OURS, THEIRS)]
        if any(some.empty for some in sides):
            continue
        nothing = _untrained(starts.get(model)) or dict.fromkeys("ab", "")
        cells = [model, f"{means['seeds'].max():.0f}", *nothing.values()]
        for some in sides:
            best = some.loc[some["cl"].idxmax()]
            cells += [f"`{best['method']}`", f"{100 * best['alone']:.1f}", percent(best, "cl"),
                      f"{100 * best['fg_paper']:.1f}"]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return if_filled(lines)


def minutes(models: list[str]) -> str:
    """What each part was planned to take, and took."""
    columns, cells = [], {}
    for preset in PLANNED:
        name = f"plan_{preset}"
        for model, plan in with_aside(models, name):
            columns.append(f"{model}, `{preset}`")
            for _, row in plan[plan["pieces"] > 0].iterrows():
                cells.setdefault(row["work"], {})[columns[-1]] = _planned(row)
            whole = plan.sum(numeric_only=True)
            cells.setdefault("all", {})[columns[-1]] = _planned(whole)
    if not columns:
        return ""
    cells["all"] = cells.pop("all")
    lines = [
        "### What it took: minutes of one core, planned / taken\n",
        "`... --plan --csv figures` beside a finished run. Planned is what the speed of a forward "
        "pass foresaw for all pieces when it was asked; taken is what those that are there took. "
        "Both on a machine that did other work too. Only planned: not run here, and what the same "
        "command has to do on a faster machine.\n",
        f"| work | {' | '.join(columns)} |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for work, by_column in cells.items():
        row = [work, *(by_column.get(column, "") for column in columns)]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _planned(row: pd.Series) -> str:
    taken = f"{row['taken']:.0f}" if row["done"] == row["pieces"] else ""
    if not taken and row["done"]:
        taken = f"{row['taken']:.0f} for {row['done']:.0f} of {row['pieces']:.0f} pieces"
    return f"{row['planned']:.0f} / {taken}" if taken else f"{row['planned']:.0f}"
