"""Write RESULTS.md from the CSV files and pictures beside this script.

python figures/results_page.py

The tables are those that ``tl-taskneurons reproduce --csv figures`` writes, one per model. What is
not there yet is said to be not run; nothing is typed in here but what the paper says.
"""

from pathlib import Path

import pandas as pd
import results_tables
from results_tables import read

HERE = Path(__file__).parent
PAGE = HERE.parent / "RESULTS.md"
REPRODUCE = "tl-taskneurons reproduce --csv figures"
REAL = f"{REPRODUCE} --data my_data/ --model {{}} --preset {{}} \\\n    --only table1"
# Real models first; each with the command that makes its tables.
MODELS = {
    "gemma-3-270m": REAL.format("gemma-3-270m.gguf", "hour"),
    "smollm2-135m": REAL.format("smollm2-135m", "hour"),
    "mini-llama": f"{REPRODUCE} --model mini-llama",
    "mini-bloom": f"{REPRODUCE} --model mini-bloom --also runs/reproduce/mini-llama",
}
# What is asked: the claim, how the part begins, in words, and what the paper found (Llama-2-7b).
# What isn't a claim's main question is there because the paper asked it so.
QUESTIONS = (
    ("C1", "", "silencing a task's neurons hurts it more than silencing random ones",
     "-9.6 points against random, 12 of 12"),
    ("C1", "silenced: 10.0%, plain, plain controls", "the same at 10%, the paper's share",
     "the same"),
    ("C2", "speed", "training them is faster: low rate, few updates", "no map over rates"),
    ("C2", "end point", "training them ends better, each set at its best rate",
     "+21.5 points over random, 12 of 12"),
    ("C3", "silenced", "silenced, the own task suffers most, by row and column", "Figure 5 a, b"),
    ("C3", "trained", "trained, the own task gains most, by row and column", "Figure 5 c, d"),
    ("C4", "peak", "trained together, tasks do best below 100%", "best at 70% and 50%"),
    ("C4", "transfer", "transfer to siblings rises with the share", "rises"),
    ("C5", "", "tasks of one type share more neurons", "20.8 and 21.6% against 12.9 and 11.8%"),
    ("C6", "transfer", "more overlap, better transfer", "+2.0 points from 10 to 100% (CLS, 10%)"),
    ("C7", "", "siblings' parameters are more alike, the deeper the more", "rises with depth"),
    ("C8", "", "similar parameters, better transfer", "correlation .79 to .97"),
    ("C9", "chain", "seq-ft < seq-lora < ncft < w-ncft", "47.1, 53.8, 71.3, 73.3"),
    ("C10", "", "ncft forgets less than seq-ft and seq-lora at every stage", "Figure 4"),
    ("C11", "", "what is supported is so in every architecture", "Llama and Bloom"),
)  # fmt: skip
# One picture for each claim, of the first model that has it.
PICTURES = {
    "C1": ("table1", "a task's neurons silenced, and random ones"),
    "C2": ("rate_map", "when task neurons train better than random ones: rate, updates and share"),
    "C3": ("figure5_silenced", "silenced against tested"),
    "C4": ("figure2", "a growing share trained, three tasks together"),
    "C5": ("table8", "overlap of groups"),
    "C6": ("tables9_11", "transfer against overlap at a fixed share"),
    "C7": ("figure3", "similarity by layer"),
    "C10": ("figure4", "what is kept of earlier tasks"),
}
NOT_RUN = "not run"


def page() -> str:
    """Return the whole page."""
    verdicts = {name: _verdicts(name) for name in MODELS}
    text = (HERE / "results_text.md").read_text(encoding="utf-8")
    parts = {
        "VERDICTS": _screen(verdicts),
        "PICTURES": _pictures(verdicts),
        "COMMANDS": "\n".join(MODELS.values()),
        "OTHERS": _others(verdicts),
        "TABLES": results_tables.tables([name for name in MODELS if _tables_of(name)]),
    }
    for mark, part in parts.items():
        text = text.replace(mark, part.strip())
    return text


def _verdicts(model: str) -> pd.DataFrame | None:
    """The verdicts on a model; None where it was not run, or by the rule of the first version."""
    found = read("claims", model)
    if found is None or "part" not in found:
        return None
    return found.assign(part=found["part"].fillna(""))


def _tables_of(model: str) -> bool:
    return any(read(name, model) is not None for name in ("gates", "table8"))


def _screen(verdicts: dict[str, pd.DataFrame | None]) -> str:
    lines = [
        "| claim | asks | paper | " + " | ".join(verdicts) + " |",
        "|---" * (3 + len(verdicts)) + "|",
    ]
    for claim, part, asked, paper in QUESTIONS:
        cells = [_cell(table, claim, part) for table in verdicts.values()]
        lines.append(f"| {claim} | {asked} | {paper} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(table: pd.DataFrame | None, claim: str, part: str) -> str:
    if table is None:
        return NOT_RUN
    rows = table[table["claim"] == claim]
    rows = rows[rows["part"].str.startswith(part) | (rows["part"] == "")]
    first = rows["primary"].astype(bool)
    rows = rows[first] if first.any() else rows  # of several the first, in nats
    return _told(rows.iloc[0]) if len(rows) else NOT_RUN


def _told(row: pd.Series) -> str:
    """A verdict in a cell: category, count, effect, interval and power."""
    if row["verdict"] == "not testable":
        missing = str(row["note"]).startswith("no table")
        return NOT_RUN if missing else f"not testable: {row['note']}"
    told = f"**{row['verdict']}**, {row['n_hold']} of {row['n']}"
    if pd.notna(row["low"]):
        told += f"; {row['effect']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    if pd.notna(row["power"]):
        told += f"; power {row['power']:.2f}"
    return told


def _pictures(verdicts: dict[str, pd.DataFrame | None]) -> str:
    """Of each claim that is tested, the picture of the first model that has one."""
    lines = []
    for claim, (name, says) in PICTURES.items():
        for model, table in verdicts.items():
            if table is None or not (HERE / f"{name}_{model}.png").exists():
                continue
            if (table.loc[table["claim"] == claim, "verdict"] == "not testable").all():
                continue
            lines.append(f"![{claim}, {model}: {says}](figures/{name}_{model}.png)\n")
            break
    return "\n".join(lines) or "None yet: no claim was tested by this design."


def _others(verdicts: dict[str, pd.DataFrame | None]) -> str:
    """The verdicts that are not on the first screen: other settings, controls and measures."""
    lines = ["| claim | asked | model | verdict | unit |", "|---" * 5 + "|"]
    for model, table in verdicts.items():
        if table is None:
            continue
        for _, row in table[~table["primary"].astype(bool)].iterrows():
            told = _told(row)
            lines.append(f"| {row['claim']} | {row['part']} | {model} | {told} | {row['unit']} |")
    return "\n".join(lines) if len(lines) > 2 else "None yet."


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE} is written.")
