"""The tables of RESULTS.md: what the CSV files beside this script hold, the paper's beside them."""

from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
# Presets whose plan may be there, beside a run or alone.
PLANNED = ("hour", "mini", "real")
# Averages over six tasks each, classification (accuracy) and generation (ROUGE-L), in percent:
# Leng & Xiong 2025, Tables 1, 2, 6 and 7.
PAPER_TABLE1 = {
    "Llama-2-7b (paper)": (87.7, 84.8, 76.0, 45.6, 42.3, 32.0),
    "Bloom-7b1 (paper)": (85.7, 83.9, 76.2, 43.5, 41.1, 30.3),
}
PAPER_TABLE2 = {
    "Llama-2-7b (paper)": (53.3, 54.8, 83.2, 19.8, 22.5, 37.0),
    "Bloom-7b1 (paper)": (53.6, 55.0, 81.2, 19.4, 21.0, 34.2),
}
# Overlap rates in percent (Table 8) by share of neurons.
PAPER_TABLE8 = {
    "CLS - CLS": (20.8, 53.9, 84.5, 96.2, 100.0),
    "CLS - GEN": (12.9, 41.6, 71.5, 83.5, 100.0),
    "GEN - CLS": (11.8, 40.2, 69.3, 81.8, 100.0),
    "GEN - GEN": (21.6, 52.5, 82.0, 94.3, 100.0),
}
# Mean score after the last stage in percent, orders 1-3 (Table 5).
PAPER_TABLE5 = {
    "seq-ft": 47.1, "seq-lora": 53.8, "epi": 48.4, "o-lora": 76.1, "ncft": 71.3, "w-ncft": 73.3,
    "per-task": 77.2,
}  # fmt: skip


def tables(models: list[str]) -> str:
    """Every table that is there."""
    makers = (
        _gates, _table1, _table1_tasks, _table2, _rate_map, _table8, _table4, _row_start, _table5,
        _minutes,
    )  # fmt: skip
    return "\n".join(part for part in (make(models) for make in makers) if part)


def _command(experiment: str) -> str:
    """The command that makes a table alone; the rest of it is under "How it was done"."""
    return f"`... --only {experiment}`\n"


def _gates(models: list[str]) -> str:
    """Whether the models do the tasks, means over tasks and how many pass."""
    lines = [
        "### Gates: what was learnt before anything is concluded\n",
        "Scores are means over tasks (%), losses nats per token; a task passes by score where it "
        "is above guessing and",
        "by loss where that fell.\n",
        "| model | what is tested | zero-shot | after | guessing | loss before | after | pass |",
        "|---" * 8 + "|",
    ]
    for model, table in _each(models, "gates"):
        for name, part in table.groupby("table", sort=False):
            passed = int((part["above_floor"].astype(bool) & part["better"].astype(bool)).sum())
            scores = [100 * part[c].mean() for c in ("zero_shot_score", "score", "floor")]
            losses = [part[c].mean() for c in ("zero_shot_loss", "loss")]
            lines.append(
                f"| {model} | {name} | "
                + " | ".join(f"{v:.1f}" for v in scores)
                + " | "
                + " | ".join(f"{v:.2f}" for v in losses)
                + f" | {passed} of {len(part)} |"
            )
    return _if_filled(lines)


def _table1(models: list[str]) -> str:
    lines = [
        "### Table 1 (6): neurons silenced, means over tasks\n",
        _command("table1"),
        "Scores in %, then the rise of the task's own loss (nats per token) and of the other "
        "tasks'. Random neurons are "
        "as many over all layers (plain) or in each (layer).\n",
        "| model | share | controls | classification: original | random | task | generation: "
        "original | random | task "
        "| loss: random | task | others |",
        "|---" * 12 + "|",
    ]
    for name, values in PAPER_TABLE1.items():
        lines.append(
            f"| {name} | 10% | plain | " + " | ".join(f"{v:.1f}" for v in values) + " | | | |"
        )
    keys = ["selection", "fraction", "match"]
    for model, table in _each(models, "table1"):
        for (selection, fraction, match), part in table.groupby(keys, sort=False):
            what = "" if selection == "plain" else f", {selection}"
            cells = _scores(part, ("original", "random", "silenced"))
            rises = ("loss_rise_random", "loss_rise", "loss_rise_others")
            cells += [f"{part[column].mean():+.2f}" for column in rises]
            kind = "plain" if match == "total" else match
            lines.append(f"| {model} | {fraction:.0%}{what} | {kind} | {' | '.join(cells)} |")
    return _if_filled(lines, len(PAPER_TABLE1))


def _table1_tasks(models: list[str]) -> str:
    """Task by task at the smallest share, against plain controls."""
    lines = [
        "#### The same task by task, smallest share, plain controls\n",
        "| model | task | score: original | random | task | loss: original | rise: random | task "
        "| others |",
        "|---" * 9 + "|",
    ]
    for model, table in _each(models, "table1"):
        first = table[(table["selection"] == "plain") & (table["match"] == "total")]
        first = first[first["fraction"] == first["fraction"].min()]
        for task, part in first.groupby("task", sort=False):
            scores = [_number(100 * part[c].mean()) for c in ("original", "random", "silenced")]
            losses = [f"{part['loss'].mean():.2f}"]
            rises = ("loss_rise_random", "loss_rise", "loss_rise_others")
            losses += [f"{part[c].mean():+.2f}" for c in rises]
            lines.append(f"| {model} | {task} | {' | '.join(scores)} | {' | '.join(losses)} |")
    return _if_filled(lines)


def _table2(models: list[str]) -> str:
    lines = [
        "### Table 2 (7): neurons trained, means over tasks\n",
        _command("table2"),
        "Scores in %, losses in nats per token. Speed: few updates at one low rate. End point: "
        "each set at its best rate, "
        "chosen on held-out examples.\n",
        "| model | asked | share | controls | rate: random | task | classification: zero-shot | "
        "random | task "
        "| generation: zero-shot | random | task | loss: zero-shot | random | task |",
        "|---" * 15 + "|",
    ]
    for name, values in PAPER_TABLE2.items():
        lines.append(
            f"| {name} | | 10% | plain | | | " + " | ".join(f"{v:.1f}" for v in values) + " | | | |"
        )
    keys = ["question", "fraction", "match"]
    for model, table in _each(models, "table2"):
        for (question, fraction, match), part in table.groupby(keys, sort=False):
            rates = [f"{part[column].iloc[0]:.2g}" for column in ("lr_random", "lr_task")]
            cells = _scores(part, ("zero_shot", "train_random", "train_task"))
            if question == "speed":  # nothing is generated, and losses are what is asked
                cells = [""] * len(cells)
            losses = ("loss_zero_shot", "loss_random", "loss_task")
            cells += [f"{part[column].mean():.3f}" for column in losses]
            kind = "plain" if match == "total" else match
            about = f"{question}, {part['updates'].iloc[0]} updates"
            lines.append(
                f"| {model} | {about} | {fraction:.0%} | {kind} | {' | '.join([*rates, *cells])} |"
            )
    return _if_filled(lines, len(PAPER_TABLE2))


def _rate_map(models: list[str]) -> str:
    lines = [
        "### When task neurons beat random ones\n",
        _command("rate_map"),
        "Held-out loss after training random neurons minus that after training as many of the "
        "task's, in nats per token "
        "with its 95% interval over tasks; above 0, task neurons are better. In brackets, in how "
        "many tasks they are.\n",
    ]
    n_lines = len(lines)
    for model, table in _each(models, "rate_map"):
        updates = sorted(table["updates"].unique())
        lines += [
            f"| {model}: share | controls | rate | "
            + " | ".join(f"{n} updates" for n in updates)
            + " |",
            "|---" * (3 + len(updates)) + "|",
        ]
        for (fraction, match, lr), part in table.groupby(["fraction", "match", "lr"]):
            by_updates = part.set_index("updates")
            cells = [_gap(by_updates.loc[n]) for n in updates]
            kind = "plain" if match == "total" else match
            lines.append(f"| {fraction:.1%} | {kind} | {lr:g} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines) if len(lines) > n_lines else ""


def _gap(row: pd.Series) -> str:
    return (
        f"{row['gap']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] "
        f"({row['n_above']:.0f} of {row['n_tasks']:.0f})"
    )


def _table8(models: list[str]) -> str:
    shares = (0.01, 0.1, 0.3, 0.5, 0.7, 1.0)
    lines = [
        "### Table 8: overlap of the trained tasks' neurons with the unseen tasks' (%)\n",
        _command("table8"),
        "| model | groups | " + " | ".join(f"{share:.0%}" for share in shares) + " |",
        "|---" * 8 + "|",
    ]
    for pair, values in PAPER_TABLE8.items():
        lines.append(
            f"| Llama-2-7b (paper) | {pair} | | " + " | ".join(f"{v:.1f}" for v in values) + " |"
        )
    for model in models:
        found = read("table8", model)
        if found is None:
            continue
        for key, part in found.groupby(["task_x", "task_y"], sort=False):
            by_share = part.set_index("fraction")
            cells = [
                f"{100 * by_share.loc[s, 'iou']:.1f} ({100 * by_share.loc[s, 'expected_iou']:.1f})"
                if s in by_share.index else "" for s in shares
            ]  # fmt: skip
            lines.append(f"| {model} | {key[0]} - {key[1]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nIn brackets: what chance gives for sets of these sizes.\n"


def _table4(models: list[str]) -> str:
    lines = [
        "### Table 4: similarity of parameters against transfer, over the tuned models\n",
        "The paper: Pearson .79 to .97, Spearman .71 to .83 (six models).\n",
        _command("table4"),
        "| model | unseen task | Pearson [95%] | Spearman [95%] | models |", "|---" * 5 + "|",
    ]  # fmt: skip
    for model in models:
        found = read("table4", model)
        if found is None:
            continue
        found = found[found["reading"] == "masked"]
        for task, part in found.groupby("task", sort=False):
            rows = part.set_index("method")
            cells = [_correlation(rows.loc[method]) for method in ("pearson", "spearman")]
            lines.append(f"| {model} | {task} | {' | '.join(cells)} | {part['n'].iloc[0]} |")
    return _if_filled(lines)


def _correlation(row: pd.Series) -> str:
    span = "" if pd.isna(row["low"]) else f" [{row['low']:+.2f}, {row['high']:+.2f}]"
    return f"{row['r']:+.2f}{span}"


def _row_start(models: list[str]) -> str:
    lines = [
        "### Before tasks in a row: what the model knows of them\n",
        _command("table5"),
        "Scores in % on the rows' test examples, with the 95% interval, before anything "
        "of a row is trained. `base` is the model as it is, `primed` the one that rows start "
        "from, in which the labels are known.\n",
        "| model | task | labels | guessing | base | primed | loss: base | primed |",
        "|---" * 8 + "|",
    ]
    for model, table in _each(models, "table5_start"):
        for (instructions, task), part in table.groupby(["instructions", "task"], sort=False):
            rows = part.set_index("start")
            known = [name for name in ("base", "primed") if name in rows.index]
            first = rows.loc[known[0]]
            spans = {name: _span(rows.loc[name], "score", "low", "high") for name in known}
            losses = {name: f"{rows.loc[name, 'loss']:.2f}" for name in known}
            cells = [
                found.get(name, "") for found in (spans, losses) for name in ("base", "primed")
            ]
            lines.append(
                f"| {model} | {task}, {instructions} instructions | {first['labels']} | "
                f"{100 * first['guessing']:.1f} | {' | '.join(cells)} |"
            )
    return _if_filled(lines)


def _table5(models: list[str]) -> str:
    lines = [
        "### Table 5: tasks in a row (%)\n",
        _command("table5"),
        "CL is the mean score after the last stage, alone that of each task trained by itself, "
        "kept (FG) what is left of "
        "earlier tasks, guessing taken away (empty where a task alone is not above it); with "
        "guessing is the paper's FG.\n",
        "| model | method | rate | updates | alone | CL | kept (FG) | with guessing | paper's CL |",
        "|---" * 9 + "|",
    ]
    for model, table in _each(models, "table5"):
        means = table[table["order"] == "all"]
        for _, row in means.iterrows():
            value = PAPER_TABLE5.get(row["method"], "")
            lines.append(
                f"| {model} | `{row['method']}`, {row['instructions']} instructions | "
                f"{row['lr']:.2g} | "
                f"{row['updates']:.0f} | {100 * row['alone']:.1f} | {_percent(row, 'cl')} | "
                f"{_percent(row, 'fg')} | {100 * row['fg_paper']:.1f} | {value} |"
            )
    return _if_filled(lines)


def _minutes(models: list[str]) -> str:
    """What each part was planned to take, and took."""
    columns, cells = [], {}
    for preset in PLANNED:
        for model, plan in _each(models, f"plan_{preset}"):
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


def _each(models: list[str], name: str) -> list[tuple[str, pd.DataFrame]]:
    """A table of every model that has it."""
    found = [(model, read(name, model)) for model in models]
    return [(model, table) for model, table in found if table is not None]


def _if_filled(lines: list[str], n_rows: int = 0) -> str:
    """The lines as text; nothing where there are no rows but the paper's."""
    rule = next(k for k, line in enumerate(lines) if line.startswith("|---"))
    return "\n".join(lines) + "\n" if len(lines) - rule - 1 > n_rows else ""


def _scores(part: pd.DataFrame, columns: tuple[str, ...]) -> list[str]:
    """Means over classification tasks (accuracy), then over generation tasks, in percent."""
    classes = part["metric"] == "accuracy"
    return [
        _number(100 * part.loc[kind, column].mean())
        for kind in (classes, ~classes)
        for column in columns
    ]


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.1f}"


def _percent(row: pd.Series, name: str) -> str:
    return _span(row, name, f"{name}_low", f"{name}_high")


def _span(row: pd.Series, *columns: str) -> str:
    value, low, high = (100 * row[column] for column in columns)
    if pd.isna(value):
        return ""
    return f"{value:.1f}" if pd.isna(low) else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def read(table: str, model: str) -> pd.DataFrame | None:
    """A table of a model; None where it was not run."""
    file = HERE / f"{table}_{model}.csv"
    return pd.read_csv(file) if file.exists() else None
