"""The tables of RESULTS.md: what the CSV files beside this script hold, the paper's beside them."""

from pathlib import Path

import pandas as pd

from tl_taskneurons.continual.methods import METHODS

HERE = Path(__file__).parent
# Runs of experiments.table5 with a section of their own: title, what was run, and the command.
ROWS = {
    "all-methods": (
        "All methods for tasks in a row, mini-llama-base (%)",
        "Four topic tasks with 33 classes, 150 updates of 8 examples a stage, {rows} rows of "
        "tasks (orders and seeds). Each method's learning rate was chosen on held-out training "
        "examples of the first order and seed. Chance is 15. Seconds are means over rows on a "
        "busy machine, so compare them roughly.",
        "python -m tl_taskneurons.experiments.studies.table5 --out runs/table5 --csv "
        "figures/table5_all-methods.csv",
    ),
    "smollm2-135m": (
        "Tasks in a row, SmolLM2-135M on real data (%)",
        "DBPedia, Amazon, Yahoo and AGNews (order 1) and the same with the last two exchanged "
        "(order 2), 200 training examples and 25 updates of 8 a stage, 24 test items a task, "
        "{rows} rows (one seed, the same test items): differences below about 12 points may be "
        "chance, and two rows have no intervals. The rows were run on different days, so compare "
        "seconds between methods only. "
        "Neurons are chosen by 24 training examples. Learning rates were chosen by 12 "
        "updates on DBPedia and then Amazon and 24 held-out training examples of each: seq-lora's "
        "and o-lora's from 3e-4, 1e-3 and 3e-3, ncft's from 3e-5, 1e-4 and 3e-4 (higher ones were "
        "worse before), that of seq-ft from 1.1e-5, 3.3e-5, 1e-4 and 3.3e-4; w-ncft and routed "
        "take that of ncft, per-task that of seq-ft. Guessing gives 7, 20, 10 and 25.",
        "python -m tl_taskneurons.experiments.studies.table5 --model smollm2-135m --data my_data/ "
        "--orders order1,order2 \\\n    --methods {methods} --seeds 0 \\\n"
        "    --train 200 --steps 25 --test 24 --max-chars 200 --score-limit 24 \\\n"
        "    --out runs/table5-smollm2 \\\n    {rates} \\\n"
        "    --csv figures/table5_smollm2-135m.csv",
    ),
}
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
    parts = [make(models) for make in (_table1, _table2, _table8, _table4, _table5)]
    parts += [_rows(name) for name in ROWS if (HERE / f"table5_{name}.csv").exists()]
    return "\n".join(part for part in parts if part)


def _table1(models: list[str]) -> str:
    states = ("original", "random", "silenced")
    return _averages(
        models, "table1", states, PAPER_TABLE1,
        "### Table 1 (6): task neurons silenced, 10%\n",
        ("original", "random silenced", "task silenced"),
    )  # fmt: skip


def _table2(models: list[str]) -> str:
    states = ("zero_shot", "train_random", "train_task")
    return _averages(
        models, "table2", states, PAPER_TABLE2, "### Table 2 (7): task neurons trained, 10%\n",
        ("zero-shot", "random trained", "task trained"),
    )  # fmt: skip


def _averages(
    models: list[str], table: str, states: tuple[str, ...], paper: dict[str, tuple[float, ...]],
    title: str, names: tuple[str, ...],
) -> str:  # fmt: skip
    headings = [f"{kind} {name}" for kind in ("classification:", "generation:") for name in names]
    lines = [title, "| model | " + " | ".join(headings) + " |", "|---" * 7 + "|"]
    for model, values in paper.items():
        lines.append(f"| {model} | " + " | ".join(f"{value:.1f}" for value in values) + " |")
    for model in models:
        found = read(table, model)
        if found is None:
            continue
        classes = found["metric"] == "accuracy"
        means = [100 * found.loc[kind, state].mean() for kind in (classes, ~classes)
                 for state in states]  # fmt: skip
        lines.append(f"| {model} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |")
    return "\n".join(lines) + "\n"


def _table8(models: list[str]) -> str:
    shares = (0.1, 0.3, 0.5, 0.7, 1.0)
    lines = [
        "### Table 8: overlap of the trained tasks' neurons with the unseen tasks' (%)\n",
        "| model | groups | " + " | ".join(f"{share:.0%}" for share in shares) + " |",
        "|---" * 7 + "|",
    ]
    for pair, values in PAPER_TABLE8.items():
        lines.append(
            f"| Llama-2-7b (paper) | {pair} | " + " | ".join(f"{v:.1f}" for v in values) + " |"
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
        "| model | unseen task | Pearson [95%] | Spearman [95%] | models |", "|---" * 5 + "|",
    ]  # fmt: skip
    for model in models:
        found = read("table4", model)
        if found is None:
            continue
        found = found[(found["reading"] == "masked") & (found["part"] == "all")]
        for task, part in found.groupby("task", sort=False):
            rows = part.set_index("method")
            cells = [_correlation(rows.loc[method]) for method in ("pearson", "spearman")]
            lines.append(f"| {model} | {task} | {' | '.join(cells)} | {part['n'].iloc[0]} |")
    return "\n".join(lines) + "\n"


def _correlation(row: pd.Series) -> str:
    span = "" if pd.isna(row["low"]) else f" [{row['low']:+.2f}, {row['high']:+.2f}]"
    return f"{row['r']:+.2f}{span}"


def _table5(models: list[str]) -> str:
    lines = [
        "### Table 5: tasks in a row, mean score after the last stage (%)\n",
        "| method | Llama-2-7b (paper, orders 1-3) | " + " | ".join(models) + " |",
        "|---" * (2 + len(models)) + "|",
    ]
    tables = {name: read("table5", name) for name in models}
    others = [
        method for table in tables.values() if table is not None
        for method in table["method"].unique() if method not in PAPER_TABLE5
    ]  # fmt: skip
    for method in (*PAPER_TABLE5, *dict.fromkeys(others)):
        value = PAPER_TABLE5.get(method, "")
        cells = []
        for table in tables.values():
            part = None
            if table is not None:
                part = table[(table["method"] == method) & (table["order"] == "all")]
            if part is None or part.empty:
                cells.append("")
                continue
            cells.append(_percent(part.iloc[0], "cl"))
        lines.append(f"| {method} | {value} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _rows(name: str) -> str:
    """A run of ``experiments.table5``: every method under one budget, and the claims."""
    title, text, command = ROWS[name]
    found = pd.read_csv(HERE / f"table5_{name}.csv")
    means = found[found["order"] == "all"]
    rates = [f"--rate {row['method']}={row['lr']:.4g}" for _, row in means.iterrows()]
    lines_of_rates = [" ".join(rates[k : k + 4]) for k in range(0, len(rates), 4)]
    command = command.format(
        methods=",".join(means["method"]), rates=" \\\n    ".join(lines_of_rates)
    )
    lines = [
        f"### {title}\n",
        text.format(rows=int(means["rows"].max())) + "\n",
        f"```\n{command}\n```\n",
        "| method | what it is | learning rate | after the last stage (CL) | kept (FG) | backward "
        "transfer | the task alone | seconds |",
        "|---" * 8 + "|",
    ]
    for _, row in means.sort_values("cl", ascending=False, kind="stable").iterrows():
        lines.append(
            f"| `{row['method']}` | {METHODS[row['method']]} | {row['lr']:.4g} | "
            f"{_percent(row, 'cl')} | {_percent(row, 'fg')} | {100 * row['bwt']:+.1f} | "
            f"{100 * row['alone']:.1f} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _percent(row: pd.Series, name: str) -> str:
    value, low, high = (100 * row[column] for column in (name, f"{name}_low", f"{name}_high"))
    if pd.isna(value):
        return ""
    return f"{value:.1f}" if pd.isna(low) else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def read(table: str, model: str) -> pd.DataFrame | None:
    """A table of a model; None where it was not run."""
    file = HERE / f"{table}_{model}.csv"
    return pd.read_csv(file) if file.exists() else None
