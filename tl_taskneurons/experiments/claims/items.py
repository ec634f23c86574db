"""Tests of claims C1, C2, C4 and C6, on items compared in pairs. No torch.

Each is asked in nats, and where the gate is passed by score as well.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from tl_taskneurons.evaluation.statistics import Contrast, average, paired_effect, slope
from tl_taskneurons.experiments.claims.decide import judge, not_testable, over_seeds, pool
from tl_taskneurons.experiments.claims.evidence import (
    MEASURES,
    UNITS,
    Evidence,
    NotTestable,
    good,
    named,
    nearest,
    same_items,
)
from tl_taskneurons.experiments.claims.verdicts import Question, Verdict

MIN_CONTROLS = 5
MIN_SAMPLES = 3  # below this a task's set is taken as fixed
SHARE = 0.01  # the first page's; the paper's 10% breaks small models altogether
# The paper's best shares where tasks are trained together: nothing is chosen on the data here.
PEAK_SHARES = {"CLS": 0.7, "GEN": 0.5}
# Smallest effects of interest: silencing, training (nats; share of 1), and slopes per unit.
SILENCED = {"loss": 0.05, "score": 0.02}
TRAINED = {"loss": 0.02, "score": 0.02}
# The paper's mean gaps over its twelve tasks, Tables 1 and 2, and its slope, Table 9 (CLS at 10%).
PAPER_SILENCED = (84.8 - 76.0 + 42.3 - 32.0) / 200
PAPER_TRAINED = (83.2 - 54.8 + 37.0 - 22.5) / 200
PAPER_SLOPE = (0.822 - 0.802) / 0.9
CONTROLS = {"total": "plain controls", "layer": "controls by layer"}


def c1(evidence: Evidence) -> list[Verdict]:
    """Test C1: how well a task does with random neurons silenced minus with its own silenced."""
    items = evidence.need("deactivation")
    random = items[items["kind"] == "random"]
    if random.empty:
        raise NotTestable("no random controls")
    designs = _designs(random, ["selection", "fraction", "match"])
    first = _first(designs, {"selection": "plain", "match": "total"})
    verdicts = []
    for measure in MEASURES:
        for selection, share, match in designs:
            question = Question(
                "C1", f"silenced: {share:.1%}, {selection}, {CONTROLS[match]}", UNITS[measure],
                SILENCED[measure], PAPER_SILENCED if measure == "score" else None,
                bool(measure == "loss" and (selection, share, match) == first),
            )  # fmt: skip
            rows = items[(items["selection"] == selection) & (items["fraction"] == share)]
            control = rows[(rows["kind"] == "random") & (rows["match"] == match)]
            chosen = rows[rows["kind"] == "task"]
            verdicts.append(
                _tasks(
                    question, evidence, "deactivation", measure,
                    lambda able, measure=measure, chosen=chosen, control=control: {
                        task: {task: _silenced(task, measure, chosen, control)}
                        for task in named(chosen["silenced"], able)
                    },
                )
            )  # fmt: skip
    return verdicts


def _silenced(task: str, measure: str, chosen: pd.DataFrame, control: pd.DataFrame) -> np.ndarray:
    """Random minus own ``[samples, items]``, or with few samples ``[controls, items]``."""
    own, random = (
        rows[(rows["silenced"] == task) & (rows["task"] == task)] for rows in (chosen, control)
    )
    same_items(task, own, random)
    silenced = good(own, task, measure, ["sample", "item"])
    controls = good(random, task, measure, ["sample", "seed", "item"])
    n_samples, n_controls, n_items = controls.shape
    if n_samples * n_controls < MIN_CONTROLS:
        raise NotTestable(
            f"needs {MIN_CONTROLS} random controls; there are {n_samples * n_controls} of {task}"
        )
    if n_samples >= MIN_SAMPLES:
        return controls.mean(1) - silenced
    return (controls - silenced[:, None]).reshape(n_samples * n_controls, n_items)


def c2(evidence: Evidence) -> list[Verdict]:
    """Test C2: how well a task does after training its neurons minus after random ones.

    Asked twice: speed, after few updates at a low rate, and end point, each at its best rate.
    """
    items = evidence.need("trained")
    verdicts = []
    for question in ("speed", "end point"):
        rows = items[items["question"] == question]
        random = rows[rows["neurons"] == "random"]
        if random.empty:
            verdicts.append(
                not_testable(Question("C2", question, UNITS["loss"], TRAINED["loss"]),
                             "no rows of random neurons")
            )  # fmt: skip
            continue
        designs = _designs(random, ["fraction", "match"])
        first = _first(designs, {"match": "total"})
        # Speed is run for its losses: nothing is generated after a few updates.
        measures = [measure for measure in MEASURES if rows[measure].notna().any()]
        verdicts += [
            _trained(evidence, question, rows, measure, share, match, (share, match) == first)
            for measure in measures
            for share, match in designs
        ]
    return verdicts


def _trained(
    evidence: Evidence, asked: str, rows: pd.DataFrame, measure: str, share: float, match: str,
    first: bool,
) -> Verdict:  # fmt: skip
    question = Question(
        "C2", f"{asked}: {share:.1%}, {CONTROLS[match]}", UNITS[measure], TRAINED[measure],
        PAPER_TRAINED if measure == "score" else None, bool(measure == "loss" and first),
    )  # fmt: skip
    own = rows[(rows["trained"] == rows["task"]) & (rows["fraction"] == share)]
    random = own[(own["neurons"] == "random") & (own["match"] == match)]
    chosen = own[own["neurons"] == "task"]

    def contrasts(able: set[str]) -> dict[str, Contrast]:
        found = {}
        for task in named(random["task"], able):
            both = [each[each["task"] == task] for each in (chosen, random)]
            good(pd.concat(both), task, measure, ["neurons", "seed", "item"])  # the same in both
            task_, random_ = (good(each, task, measure, ["seed", "item"]) for each in both)
            found[task] = {task: task_ - random_}
        if asked == "speed":
            _require_learnt(evidence, own[own["task"].isin(found)])
        return found

    return _tasks(question, evidence, "trained", measure, contrasts)


def _require_learnt(evidence: Evidence, rows: pd.DataFrame) -> None:
    """The gate of speed: by then one kind of neurons has lowered the losses by what is of interest.

    A difference can't be larger than what was learnt.
    """
    before = evidence.need("gates").query("table == 'trained'").groupby("task")["zero_shot_loss"]
    losses = rows.groupby(["neurons", "task"])["loss"].mean()
    gains = before.mean().reindex(losses.index, level="task") - losses
    most = float(gains.groupby("neurons").mean().max())
    if most < TRAINED["loss"]:
        raise NotTestable(
            f"after {rows['updates'].iloc[0]} updates no neurons have learnt {TRAINED['loss']} "
            f"nats per token; the most is {most:.3f}"
        )


def c4(evidence: Evidence) -> list[Verdict]:
    """Test C4: the peak of tasks trained together, and what rises with the share.

    Peak: how well a group's own tasks do at the paper's best share (or the nearest below 1) minus
    at 1. Transfer: the slope over shares on siblings of the group's own type. Alone: the slope of a
    task that is trained alone.
    """
    verdicts = []
    for part, table in (("peak", "together"), ("transfer", "together"), ("alone", "alone")):
        question = Question(
            "C4", part, UNITS["loss"] + ("" if part == "peak" else " per unit of share"),
            TRAINED["loss"], primary=part != "alone",
        )  # fmt: skip
        try:
            items = evidence.need(table)
        except NotTestable as why:
            verdicts.append(not_testable(question, str(why)))
            continue
        verdicts.append(
            _tasks(
                question, evidence, table, "loss",
                lambda able, part=part, items=items: _shares(part, items, able), fixed=True,
            )
        )  # fmt: skip
    return verdicts


def _shares(part: str, items: pd.DataFrame, able: set[str]) -> dict[str, Contrast]:
    if part == "alone":
        rows = items[items["trained"] == items["task"]]
    else:
        inside = items["kind"] == "in-domain"
        sibling = (items["kind"] == "out-of-domain") & (items["test_group"] == items["train_group"])
        rows = items[inside if part == "peak" else sibling]
    found = {}
    for task in named(rows["task"], able):
        own = rows[rows["task"] == task]
        shares = sorted(own["fraction"].unique())
        if len(shares) < 2 or shares[-1] != 1:
            raise NotTestable("needs the share 1.0 and one below it")
        values = good(own, task, "loss", ["fraction", "seed", "item"])
        if part == "peak":
            best = nearest(shares[:-1], PEAK_SHARES[str(own["train_group"].iloc[0])])
            found[task] = {task: values[shares.index(best)] - values[-1]}
        else:
            found[task] = {task: slope(shares, values)}
    return found


def c6(evidence: Evidence) -> list[Verdict]:
    """Test C6: the slope over overlap at a fixed share, and how far it exceeds the trained tasks'.

    Training goes better too where overlap is high, so the slope on siblings alone doesn't show
    transfer; the second part asks for the difference.
    """
    items = evidence.need("controlled")
    verdicts = []
    for part, measure in (
        ("transfer", "loss"), ("beyond the trained tasks", "loss"), ("transfer", "score"),
    ):  # fmt: skip
        question = Question(
            "C6", part, UNITS[measure] + " per unit of overlap", TRAINED[measure],
            PAPER_SLOPE if measure == "score" else None, (part, measure) == ("transfer", "loss"),
        )  # fmt: skip
        verdicts.append(
            _tasks(
                question, evidence, "controlled", measure,
                lambda able, part=part, measure=measure: _overlaps(part, items, measure, able),
                fixed=True,
            )
        )  # fmt: skip
    return verdicts


def _overlaps(part: str, items: pd.DataFrame, measure: str, able: set[str]) -> dict[str, Contrast]:
    found = {}
    for (group, share), rows in items.groupby(["group", "fraction"], sort=False):
        slopes = {
            kind: _mean_slope(rows[rows["kind"] == kind], measure, able)
            for kind in ("out-of-domain", "in-domain")
        }
        if not slopes["out-of-domain"]:
            continue
        contrast = slopes["out-of-domain"]
        if part != "transfer":
            if not slopes["in-domain"]:
                raise NotTestable("needs the rows of the trained tasks (kind 'in-domain')")
            contrast |= {f"trained {task}": -each for task, each in slopes["in-domain"].items()}
        found[f"{group} at {share:.0%}"] = contrast
    return found


def _mean_slope(rows: pd.DataFrame, measure: str, able: set[str]) -> dict[str, np.ndarray]:
    """The contrast of the mean slope over the tasks of the rows."""
    overlaps = sorted(rows["overlap"].unique())
    tasks = named(rows["task"], able)
    if tasks and len(overlaps) < 2:
        raise NotTestable("needs two overlaps or more")
    axes = ["overlap", "seed", "item"]
    return {
        task: slope(overlaps, good(rows[rows["task"] == task], task, measure, axes)) / len(tasks)
        for task in tasks
    }


def _tasks(
    question: Question, evidence: Evidence, table: str, measure: str,
    contrasts: Callable[[set[str]], Mapping[str, Contrast]], *, fixed: bool = False,
) -> Verdict:  # fmt: skip
    """Judge the contrasts of the tasks that pass the gate.

    ``fixed``: these share seeds or models, so they are no independent sample.
    """
    try:
        found = contrasts(evidence.able(table, measure))
        if not found:
            raise NotTestable("no task that passes the gate is among the rows")
    except NotTestable as why:
        return not_testable(question, str(why))
    pooled = over_seeds(average(list(found.values())), question.sought)
    if not fixed:
        pooled = pool(found, question.sought)
    fewest = min(len(values) for each in found.values() for values in each.values())
    note = f"{', '.join(found)}; {fewest} {'replicates' if fewest > 1 else 'replicate, items only'}"
    return judge(
        question, {what: paired_effect(each) for what, each in found.items()}, pooled, note
    )


def _designs(rows: pd.DataFrame, columns: list[str]) -> list[tuple]:
    return sorted(rows[columns].drop_duplicates().itertuples(index=False, name=None))


def _first(designs: list[tuple], wanted: Mapping[str, str]) -> tuple:
    """The design of the first page: the paper's controls and selection, at the nearest share."""

    def fits(design: Iterable) -> tuple:
        share = next(value for value in design if isinstance(value, float))
        return (
            -sum(value in wanted.values() for value in design), abs(np.log(share / SHARE)),
        )  # fmt: skip

    return min(designs, key=fits)
