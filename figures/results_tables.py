"""The tables of RESULTS.md: what the CSV files beside this script hold, the paper's beside them."""

import pandas as pd
from results_cells import (
    command,
    each,
    if_filled,
    number,
    of_families,
    read,
    score_cells,
    with_aside,
)
from results_rows import before_rows, minutes, rates_of_rows, rates_tried, tasks_in_a_row

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
# What a rate is chosen for, see ``experiments.lab.rates.Kind``.
TRAINED = {
    "task": "a task's neurons", "total": "random ones", "layer": "random ones by layer",
    "all weights": "all weights",
}  # fmt: skip

# Whose losses Table 2 has: before training, and after training random and the task's neurons.
SETS = ("zero_shot", "random", "task")


def tables(models: list[str]) -> str:
    """Every table that is there."""
    makers = (
        _gates, _table1, _table1_tasks, _table2, _table2_kinds, _rates, _rate_map, _table8,
        _rises, _table4, before_rows, rates_of_rows, tasks_in_a_row, minutes,
    )  # fmt: skip
    return "\n".join(part for part in (make(models) for make in makers) if part)


def _gates(models: list[str]) -> str:
    """Whether the models do the tasks, means over tasks and how many pass."""
    lines = [
        "### Gates: what was learnt before anything is concluded\n",
        "Scores are means over tasks (%), losses nats per token. Claims are asked of the tasks "
        "that pass by a test over items at 5%: in nats where the loss fell (of what is silenced, "
        "also where the score is above guessing), by score where it did and the score is above "
        "guessing too.\n",
        "| model | what is tested | zero-shot | after | guessing | loss before | after "
        "| pass in nats | by score |",
        "|---" * 9 + "|",
    ]
    for model, table in with_aside(models, "gates"):
        for name, part in table.groupby("table", sort=False):
            passed = [int(part[c].astype(bool).sum()) for c in ("by_loss", "by_score")]
            scores = [100 * part[c].mean() for c in ("zero_shot_score", "score", "floor")]
            losses = [part[c].mean() for c in ("zero_shot_loss", "loss")]
            lines.append(
                f"| {model} | {name} | "
                + " | ".join(map(number, scores))
                + " | "
                + " | ".join(f"{v:.2f}" for v in losses)
                + f" | {passed[0]} of {len(part)} | {passed[1]} |"
            )
    return if_filled(lines)


def _table1(models: list[str]) -> str:
    lines = [
        "### Table 1 (6): neurons silenced, means over tasks\n",
        command("table1"),
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
    for model, table in each(models, "table1"):
        for (selection, fraction, match), part in table.groupby(keys, sort=False):
            what = "" if selection == "plain" else f", {selection}"
            cells = score_cells(part, ("original", "random", "silenced"))
            rises = ("loss_rise_random", "loss_rise", "loss_rise_others")
            cells += [f"{part[column].mean():+.2f}" for column in rises]
            kind = "plain" if match == "total" else match
            lines.append(f"| {model} | {fraction:.0%}{what} | {kind} | {' | '.join(cells)} |")
    return if_filled(lines, len(PAPER_TABLE1))


def _table1_tasks(models: list[str]) -> str:
    """Task by task at the smallest share, against plain controls."""
    lines = [
        "#### The same task by task, smallest share, plain controls\n",
        "| model | task | score: original | random | task | loss: original | rise: random | task "
        "| others |",
        "|---" * 9 + "|",
    ]
    for model, table in each(models, "table1"):
        first = table[(table["selection"] == "plain") & (table["match"] == "total")]
        first = first[first["fraction"] == first["fraction"].min()]
        for task, part in first.groupby("task", sort=False):
            scores = [number(100 * part[c].mean()) for c in ("original", "random", "silenced")]
            losses = [f"{part['loss'].mean():.2f}"]
            rises = ("loss_rise_random", "loss_rise", "loss_rise_others")
            losses += [f"{part[c].mean():+.2f}" for c in rises]
            lines.append(f"| {model} | {task} | {' | '.join(scores)} | {' | '.join(losses)} |")
    return if_filled(lines)


def _table2(models: list[str]) -> str:
    lines = [
        "### Table 2 (7): neurons trained, means over tasks\n",
        command("table2"),
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
    for model, table in each(models, "table2"):
        for (question, fraction, match), part in table.groupby(keys, sort=False):
            rates = [f"{part[column].iloc[0]:.2g}" for column in ("lr_random", "lr_task")]
            cells = score_cells(part, ("zero_shot", "train_random", "train_task"))
            if question == "speed":  # nothing is generated, and losses are what is asked
                cells = [""] * len(cells)
            cells += [f"{part[f'loss_{name}'].mean():.3f}" for name in SETS]
            kind = "plain" if match == "total" else match
            about = f"{question}, {part['updates'].iloc[0]} updates"
            lines.append(
                f"| {model} | {about} | {fraction:.0%} | {kind} | {' | '.join([*rates, *cells])} |"
            )
    return if_filled(lines, len(PAPER_TABLE2))


def _table2_kinds(models: list[str]) -> str:
    """C2 apart for classification and generation, against plain controls."""
    lines = [
        "#### The same by kind of task, plain controls\n",
        "Of the tasks that pass the gate: losses in nats per token, means over tasks, then how far "
        "a task's neurons are ahead: the mean, the least and the most of any task, and with how "
        "many tasks they are.\n",
        "| model | asked | share | kind | loss: zero-shot | random | task | ahead | of any task "
        "| tasks |",
        "|---" * 10 + "|",
    ]
    for model, table in each(models, "table2"):
        plain = table[(table["match"] == "total") & table["task"].isin(_learnt(model))]
        kinds = plain["metric"].eq("accuracy").map({True: "classification", False: "generation"})
        keys = [plain["question"], plain["fraction"], kinds]
        for (question, fraction, kind), part in plain.groupby(keys, sort=False):
            losses = [f"{part[f'loss_{name}'].mean():.3f}" for name in SETS]
            ahead = part["loss_gain"]
            cells = [*losses, f"{ahead.mean():+.3f}", f"{ahead.min():+.3f} to {ahead.max():+.3f}"]
            about = f"{question}, {part['updates'].iloc[0]} updates"
            lines.append(
                f"| {model} | {about} | {fraction:.0%} | {kind} | {' | '.join(cells)} | "
                f"{(ahead > 0).sum()} of {len(part)} |"
            )
    return if_filled(lines)


def _learnt(model: str) -> list[str]:
    """The trained tasks that pass the gate in nats."""
    gates = read("gates", model)
    if gates is None:
        return []
    passed = (gates["table"] == "trained") & gates["by_loss"].astype(bool)
    return gates.loc[passed, "task"].tolist()


def _rates(models: list[str]) -> str:
    """The choice of rates for the end points of Table 2 and Figure 6."""
    lines = [
        "### Table 2 and Figure 6: learning rates\n",
        command("table2"),
        "Losses (nats per token, held-out training examples, mean over a classification and a "
        "generation task) at each rate, the chosen one in bold. Where the best was at an edge, "
        "the next rate was tried too.\n",
        "| model | trained | share | rate: loss |",
        "|---" * 4 + "|",
    ]
    for model, table in each(models, "rates"):
        for (kind, share), part in table.groupby(["neurons", "fraction"], sort=False):
            lines.append(f"| {model} | {TRAINED[kind]} | {share:.0%} | {rates_tried(part)} |")
    return if_filled(lines)


def _rate_map(models: list[str]) -> str:
    lines = [
        "### When task neurons beat random ones\n",
        command("rate_map"),
        "Held-out loss after training random neurons minus that after training as many of the "
        "task's, in nats per token "
        "with its 95% interval over tasks (two have none); above 0, task neurons are better. In "
        "brackets, in how many tasks they are.\n",
    ]
    n_lines = len(lines)
    for model, table in with_aside(models, "rate_map"):
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
    span = "" if pd.isna(row["low"]) else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{row['gap']:+.3f}{span} ({row['n_above']:.0f} of {row['n_tasks']:.0f})"


def _table8(models: list[str]) -> str:
    shares = (0.01, 0.1, 0.3, 0.5, 0.7, 1.0)
    lines = [
        "### Table 8: overlap of the trained tasks' neurons with the unseen tasks' (%)\n",
        command("table8"),
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
    return (
        "\n".join(lines)
        + "\n\nIn brackets: what chance gives for sets with as many neurons in each layer.\n"
    )


def _rises(models: list[str]) -> str:
    """C7 model by model, from most to least."""
    lines = [
        "### Figure 3: how siblings' lead in similarity over other pairs rises with depth\n",
        command("figure3"),
        "For each model that was trained on one task, C7's effect: how much the cosine of siblings "
        "less that of other pairs, beyond chance, rises from the lowest layer to the last but one, "
        "by a straight line.\n",
        "| model | trained task: rise |",
        "|---" * 2 + "|",
    ]
    found = dict(each(models, "comparisons")) | dict(of_families(models, "comparisons"))
    for model, table in found.items():
        rows = table[table["claim"] == "C7"].sort_values("effect", ascending=False)
        told = [f"{row['what']} {row['effect']:+.2f}" for _, row in rows.iterrows()]
        if told:
            lines.append(f"| {model} | {', '.join(told)} |")
    return if_filled(lines)


def _table4(models: list[str]) -> str:
    lines = [
        "### Table 4: similarity of parameters against transfer, over the tuned models\n",
        "The paper: Pearson .79 to .97, Spearman .71 to .83 (six models).\n",
        command("table4"),
        "| model | unseen task | Pearson [95%] | Spearman [95%] | models |", "|---" * 5 + "|",
    ]  # fmt: skip
    for model, table in {
        **dict(each(models, "table4")),
        **dict(of_families(models, "table4")),
    }.items():
        found = table[table["reading"] == "masked"]
        for task, part in found.groupby("task", sort=False):
            rows = part.set_index("method")
            cells = [_correlation(rows.loc[method]) for method in ("pearson", "spearman")]
            lines.append(f"| {model} | {task} | {' | '.join(cells)} | {part['n'].iloc[0]} |")
    return if_filled(lines)


def _correlation(row: pd.Series) -> str:
    span = "" if pd.isna(row["low"]) else f" [{row['low']:+.2f}, {row['high']:+.2f}]"
    return f"{row['r']:+.2f}{span}"
