"""Write RESULTS.md from the CSV files and pictures beside this script.

python figures/results_page.py

The tables are those that ``tl-taskneurons reproduce --csv figures`` writes, one per model. What is
not there yet is said to be not run; nothing is typed in here but what the paper says.
"""

import math
from pathlib import Path

import pandas as pd
import results_tables
from results_cells import FAMILIES, LONGER, LONGEST, ROWS, each, read
from results_rows import PLANNED, unlabelled

from tl_taskneurons.experiments.claims.evidence import SCORE
from tl_taskneurons.experiments.claims.verdicts import UNASKED

HERE = Path(__file__).parent
PAGE = HERE.parent / "RESULTS.md"
REPRODUCE = "tl-taskneurons reproduce --csv figures"
REAL = (
    f"{REPRODUCE} --data my_data/ --model {{}} --preset hour \\\n"
    "    --only table1,table8,table2,figure5,figure3,table4,rate_map,figure2,tables9_11,table5 \\\n"
    "    --questions speed,end-point --fractions 0.01,0.1 --map-shares 0.001,0.01,0.1 \\\n"
    "    {}--also runs/reproduce/{}"  # for C11, once the other one is there
)
# Real models first; each with the command that makes its tables.
MODELS = {
    "gemma-3-270m": REAL.format("gemma-3-270m.gguf", "--row-rates 2e-4,6e-4 ", "smollm2-135m"),
    "smollm2-135m": REAL.format("smollm2-135m", "", "gemma-3-270m.gguf"),
    "mini-llama": f"{REPRODUCE} --model mini-llama --also runs/reproduce/mini-bloom",
    "mini-bloom": f"{REPRODUCE} --model mini-bloom --also runs/reproduce/mini-llama",
}
# Where a model was asked by a command of its own, these verdicts are those of it, and what was
# asked of less is said to be so.
OWN = {FAMILIES: (("C7", "C8"), "fewer families"), ROWS: (("C9", "C10"), "one rate")}
MORE_TASKS = (
    "amazon_food,sst2,qqp,paws,mnli,gptnli,sciq,tweetqa,e2e,commongen",
    "cnn_dailymail,xsum,dbpedia,yahoo,present_past,singular_plural",
)
OF_MORE = (
    f"tl-taskneurons reproduce --csv figures/{FAMILIES} --data my_data/ --model {{}} \\\n"
    f"    --out runs/reproduce/{FAMILIES}-{{}} --preset hour --only figure3,table4 \\\n"
    "    --cut-tasks cnn_dailymail,xsum \\\n"
    f"    --tasks {MORE_TASKS[0]},\\\n{MORE_TASKS[1]}"
)
LONGER_MAP = (
    "tl-taskneurons reproduce --csv figures/{folder} --data my_data/ --model {model} \\\n"
    "    --out runs/reproduce/{folder}-{model} --preset hour --only rate_map --map-shares 0.01 \\\n"
    "    --map-tasks {tasks} --map-updates {updates}"
)
ROWS_AT_CHOSEN_RATES = (
    f"tl-taskneurons reproduce --csv figures/{ROWS} --data my_data/ --model {{}} \\\n"
    f"    --out runs/reproduce/{ROWS}-{{}} --preset hour --only table5 \\\n"
    "    --row-rates 2e-4,6e-4 --max-chars 220 --row-test 34"
)
# Begins the unit of a question that is asked by score beside nats.
BY_SCORE = "score, share of 1"
# What is asked: the claim, how the part begins, the question, what effects are measured in and
# what is counted, and what the paper found (Llama-2-7b). What isn't a claim's main question is
# there because the paper asked it so.
QUESTIONS = (
    ("C1", "", "Does silencing the 1% of neurons that a task needs most hurt it more than 1% at "
     "random?", "nats; tasks", "not asked at 1%"),
    ("C1", "silenced: 10.0%, plain, plain controls", "The same at 10%, the paper's share",
     "nats; tasks", "9.6 points, 12 of 12"),
    ("C2", "speed", "Trained for a few updates at a low rate, do a task's 1% learn it "
     "faster than random neurons?", "nats; tasks", "not asked"),
    ("C2", "end point", "After 16 updates (miniature: 32), each at its best rate, have they (1%; "
     "miniature: 10%) learnt it better?", "nats; tasks", "not asked in nats"),
    ("C2", "end point", "The same by score", f"{BY_SCORE}; tasks", "21.5 points, 12 of 12"),
    ("C3", "silenced", "Does silencing a task's neurons hurt that task more than others, in the "
     "table of all tasks?", "nats; tasks", "yes (Figure 5 a, b)"),
    ("C3", "trained", "Does training them lower that task's loss more than others', or raise it "
     "less?", "nats; tasks",
     "yes (Figure 5 c, d)"),
    ("C4", "peak", "Tasks trained together: do they do better with half of the neurons than with "
     "all?", "nats; tasks", "best at 70% and 50%"),
    ("C4", "transfer", "Does transfer to sibling tasks rise with the share of neurons trained?",
     "nats per share; tasks", "yes"),
    ("C5", "", "Do two classification or two generation tasks share more neurons than one of each?",
     "overlap; types at each share", "21% and 22% against 13% and 12%"),
    ("C6", "transfer", "As many neurons trained: does transfer rise with those that are the tested "
     "task's?", "nats per overlap; types", "+2.0 points from 10 to 100%"),
    ("C7", "", "Are sibling tasks' parameters more alike than other tasks', the more so the deeper "
     "the layer?", "cosine; models", "rises with depth"),
    ("C8", "", "Is transfer better where parameters are more alike?", "correlation; their mean",
     ".79 to .97"),
    ("C9", "chain", "Tasks in a row: does each of seq-ft, seq-lora, ncft, w-ncft end above the one "
     "before?", "score; steps of the chain", "47.1, 53.8, 71.3, 73.3"),
    ("C10", "", "Does ncft forget less than seq-ft and seq-lora at every stage?",
     "share kept; stages, each rival", "yes (Figure 4)"),
    ("C11", "", "Is what is supported so in both architectures?", "questions supported in one",
     "Llama and Bloom"),
)  # fmt: skip
# One picture for each claim, of the model that is named or else the first that has it.
PICTURES = {
    "C1": ("table1", "scores with each task's neurons silenced, and with random ones"),
    "C2": ("rate_map", "when task neurons train better than random ones", "smollm2-135m"),
    "C3": ("figure5_trained", "what training the neurons of each task (rows) does to every task"),
    "C4": ("figure2", "scores when tasks of a type (CLS: classification, GEN: generation) are "
           "trained together in a growing share of the neurons; out-of-domain are tasks that were "
           "not trained, of the trained type their siblings (verdicts are in nats)"),
    "C5": ("table8", "neurons that classification (CLS) and generation tasks (GEN) share"),
    "C6": ("tables9_11", "transfer against overlap at a fixed share"),
    "C7": (f"{FAMILIES}/siblings", "how alike the parameters of sibling tasks' neurons are, and "
           "of other pairs, less what random neurons are"),
    "C10": ("figure4", "what is kept of earlier tasks"),
}  # fmt: skip
NOT_RUN, UNTESTED = "not run", "not testable"
# Of what there must be more for a claim to be told, and the work that grows with it.
MORE = {
    "C1": ("tasks", "table1"), "C2": ("tasks", "table2"), "C3": ("tasks", "table1"),
    "C4": ("seeds", "figure2"), "C6": ("seeds", "tables9_11"), "C7": ("models", "figure3"),
    "C8": ("models", "figure3"), "C9": ("seeds", "table5"), "C10": ("seeds", "table5"),
}  # fmt: skip
# What is told so often is told; more of it would tell something smaller.
POWER = 0.8
# A 95% interval of +-1.96 standard errors excludes 0 in 80% of cases at 2.8 standard errors.
TOLD = 1.96 / 2.8


def page() -> str:
    """Return the whole page."""
    verdicts = {name: _verdicts(name) for name in MODELS}
    text = (HERE / "results_text.md").read_text(encoding="utf-8")
    parts = {
        "VERDICTS": _screen(verdicts),
        "UNLABELLED": unlabelled(list(MODELS)),
        "PICTURES": _pictures(verdicts),
        "COMMANDS": "\n".join(
            [
                *MODELS.values(),
                *_aside(OF_MORE, f"{FAMILIES}/claims"),
                *_longer_maps(),
                *_aside(ROWS_AT_CHOSEN_RATES, f"{ROWS}/table5_rates"),
            ]
        ),
        "FURTHER": _further(verdicts),
        "OTHERS": _others(verdicts),
        "TABLES": results_tables.tables([name for name in MODELS if _tables_of(name)]),
    }
    for mark, part in parts.items():
        text = text.replace(mark, part.strip())
    return text


def _verdicts(model: str) -> pd.DataFrame | None:
    """The verdicts on a model; None where it was not run, or by the rule of the first version."""
    found = _claims("claims", model)
    for folder, (asked, before) in OWN.items():
        more = _claims(f"{folder}/claims", model)
        if found is None or more is None:
            continue
        less = found["claim"].isin(asked)
        parts = (before + ": " + found.loc[less, "part"]).str.removesuffix(": ")
        found.loc[less, "part"], found.loc[less, "primary"] = parts, False
        found = pd.concat([found, more[more["claim"].isin(asked)]], ignore_index=True)
    return found


def _claims(name: str, model: str) -> pd.DataFrame | None:
    found = read(name, model)
    if found is None or "part" not in found:
        return None
    return found.assign(part=found["part"].astype(object).fillna(""))


def _aside(command: str, name: str) -> list[str]:
    """The commands of their own that were given to the models that have a table."""
    return [command.format(model, model) for model in MODELS if read(name, model) is not None]


def _longer_maps() -> list[str]:
    """The commands of maps with more updates, of the tasks and updates that the maps have."""
    return [
        LONGER_MAP.format(
            folder=folder,
            model=model,
            tasks=",".join(sorted(table["task"].unique())),
            updates=",".join(map(str, sorted(table["updates"].unique()))),
        )
        for folder in (LONGER, LONGEST)
        for model, table in each(list(MODELS), f"{folder}/rate_map_tasks")
    ]


def _tables_of(model: str) -> bool:
    return any(read(name, model) is not None for name in ("gates", "table8"))


def _screen(verdicts: dict[str, pd.DataFrame | None]) -> str:
    run = {name: table for name, table in verdicts.items() if table is not None}
    notes: list[str] = []
    lines = [
        "| | question (effect in; counted) | paper | " + " | ".join(run) + " |",
        "|---" * (3 + len(run)) + "|",
    ]
    for claim, part, asked, unit, paper in QUESTIONS:
        by_score = unit.startswith(BY_SCORE)
        cells = [_cell(table, claim, part, notes, by_score=by_score) for table in run.values()]
        row = [claim, f"{asked} ({unit})", paper, *cells]
        lines.append(f"| {' | '.join(row)} |")
    lines += ["", *(f"[{k}] {note}.  " for k, note in enumerate(notes, start=1))]
    missing = [name for name in verdicts if name not in run]
    if missing:
        lines += ["", f"Not run yet: {', '.join(missing)}."]
    return "\n".join(lines)


def _cell(
    table: pd.DataFrame, claim: str, part: str, notes: list[str], *, by_score: bool = False
) -> str:
    rows = table[table["claim"] == claim]
    rows = rows[rows["part"].str.startswith(part) | (rows["part"] == "")]
    if by_score:
        rows = rows[rows["part"].str.endswith("plain controls") & (rows["unit"] == SCORE)]
    first = rows["primary"].astype(bool)
    rows = rows[first] if first.any() else rows  # of several the first, in nats
    if rows.empty:
        return NOT_RUN
    row = rows.iloc[0]
    told = _told(row)
    if not told.startswith(UNTESTED):
        return told.replace("; ", "<br>")
    note = str(row["note"])
    if note not in notes:
        notes.append(note)
    return f"{UNTESTED} [{notes.index(note) + 1}]"


def _told(row: pd.Series) -> str:
    """A verdict in words: category and count; effect and interval; the power, where it matters."""
    if row["verdict"] == UNTESTED:
        return NOT_RUN if str(row["note"]).startswith(UNASKED) else f"{UNTESTED}: {row['note']}"
    told = f"**{row['verdict']}**" + (f", {row['n_hold']} of {row['n']}" if row["n"] else "")
    if pd.notna(row["low"]):
        ends = row["low"], row["high"]
        digits = 3 if max(map(abs, ends)) < 0.1 else 2
        effect, low, high = (f"{value:+.{digits}f}" for value in (row["effect"], *ends))
        told += f"; {effect} [{low}, {high}]"
    if row["verdict"] == "inconclusive" and pd.notna(row["power"]):
        told += f"; power {row['power']:.2f}"
    return told


def _pictures(verdicts: dict[str, pd.DataFrame | None]) -> str:
    """Of each claim that is tested, one picture."""
    lines = []
    for claim, (name, says, *named) in PICTURES.items():
        for model, table in {one: verdicts.get(one) for one in [*named, *verdicts]}.items():
            if table is None or not (HERE / f"{name}_{model}.png").exists():
                continue
            if (table.loc[table["claim"] == claim, "verdict"] == UNTESTED).all():
                continue
            lines.append(f"![{claim}, {model}: {says}](figures/{name}_{model}.png)\n")
            lines.append(f"*{claim}, {model}: {says}.*\n")
            break
    return "\n".join(lines) or "None yet: no claim was tested by this design."


def _further(verdicts: dict[str, pd.DataFrame | None]) -> str:
    """What it would take to tell what is inconclusive on the first screen."""
    lines = [
        "| claim | model | effect to tell | needs about | minutes of one core |",
        "|---" * 5 + "|",
    ]
    for model, table in verdicts.items():
        if table is None:
            continue
        first = table[table["primary"].astype(bool) & (table["verdict"] == "inconclusive")]
        for _, row in first[first["claim"].isin(list(MORE))].iterrows():
            if row["power"] >= POWER:
                continue
            what, work = MORE[row["claim"]]
            effect = max(row["sought"], row["effect"], key=abs)
            times = max(1.0, ((row["high"] - row["low"]) / 2 / (TOLD * effect)) ** 2)
            spent = times * _minutes_of(row["claim"], model, work)
            asked = f"{row['claim']} {row['part']}".split(":")[0]
            lines.append(
                f"| {asked} | {model} | {effect:.2g} {row['unit']} | "
                f"{times:.1f} times the {what} | {'' if math.isnan(spent) else f'{spent:.0f}'} |"
            )
    return "\n".join(lines) if len(lines) > 2 else "Nothing is inconclusive."


def _minutes_of(claim: str, model: str, work: str) -> float:
    """What a claim's experiment took for a model."""
    names = [f"plan_{preset}" for preset in PLANNED]
    own = [folder for folder, (asked, _) in OWN.items() if claim in asked]
    names = [*(f"{folder}/{name}" for folder in own for name in names), *names]
    for name in names:
        plan = read(name, model)
        if plan is not None and (plan["done"] > 0).any():
            return float(plan.loc[plan["work"] == work, "taken"].sum())
    return float("nan")


def _others(verdicts: dict[str, pd.DataFrame | None]) -> str:
    """The verdicts that are not on the first screen: other settings, controls and measures."""
    lines = ["| claim | asked | model | verdict | unit |", "|---" * 5 + "|"]
    for model, table in verdicts.items():
        if table is None:
            continue
        for _, row in table[~table["primary"].astype(bool)].iterrows():
            unit = "" if pd.isna(row["unit"]) else row["unit"]
            lines.append(f"| {row['claim']} | {row['part']} | {model} | {_told(row)} | {unit} |")
    return "\n".join(lines) if len(lines) > 2 else "None yet."


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE} is written.")
