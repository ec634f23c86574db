"""The paper's Table 2 (and 7): zero-shot, random neurons trained, task neurons trained.

Every task is trained alone, in its own top neurons and in random ones of both kinds, and tested on
itself; with its own neurons also on all others, for the matrix of Figure 5 (c, d). Two questions
are asked: who ends better, each set at its own best rate; and who is faster, all at the same low
rate after a few updates.
"""

from dataclasses import replace
from typing import Any

import pandas as pd

from tl_taskneurons.evaluation.statistics import mean_interval
from tl_taskneurons.experiments.lab import gates, states
from tl_taskneurons.experiments.lab.detection import task_sets
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.groups import interval, seed_rows
from tl_taskneurons.experiments.lab.lab import Lab, control
from tl_taskneurons.experiments.lab.rates import Kind, chosen
from tl_taskneurons.experiments.lab.states import Condition
from tl_taskneurons.experiments.paper.table1 import MATCHES
from tl_taskneurons.neurons.sets import NeuronSet

END_POINT, SPEED = "end point", "speed"


class Table2(Experiment):
    """Task neurons trained, against random ones."""

    name = "table2"
    title = "task neurons trained, against random ones"

    def rates(self, lab: Lab) -> list[Kind]:
        """The task's neurons, and random ones of both kinds, where end points are asked."""
        if END_POINT not in lab.plan.questions:
            return []
        return [Kind(kind, lab.plan.fraction) for kind in ("task", *MATCHES)]

    def conditions(self, lab: Lab) -> list[Condition]:
        """Every trained state: at its end on all tasks, after a few updates on its own."""
        return [*self._end_points(lab), *self._speeds(lab)]

    def _end_points(self, lab: Lab) -> list[Condition]:
        found = []
        for seed in lab.plan.seeds if END_POINT in lab.plan.questions else ():
            for name, sets in _sets(lab, lab.plan.fraction, seed):
                for kind, neurons in sets.items():
                    lr = chosen(lab, Kind(kind, lab.plan.fraction))
                    training = lab.plan.training(lr, seed)
                    state = states.trained(lab, [name], neurons, training)
                    tested = lab.tasks.names if kind == "task" else (name,)
                    about = {"question": END_POINT, "lr": lr, "updates": training.steps}
                    columns = {**_described(name, kind, lab.plan.fraction, seed), **about}
                    found.append(Condition(state, tested, columns))
        return found

    def _speeds(self, lab: Lab) -> list[Condition]:
        found, plan = [], lab.plan
        for fraction in plan.fractions if SPEED in plan.questions else ():
            for seed in plan.seeds:
                training = replace(plan.training(plan.speed_rate, seed), steps=plan.speed_steps)
                about = {"question": SPEED, "lr": training.lr, "updates": training.steps}
                for name, sets in _sets(lab, fraction, seed):
                    for kind, neurons in sets.items():
                        state = states.trained(lab, [name], neurons, training)
                        columns = {**_described(name, kind, fraction, seed), **about}
                        found.append(Condition(state, (name,), columns, loss_only=True))
        return found

    def units(self, lab: Lab) -> list[states.Unit]:
        """The base model, and one unit per trained state."""
        plain = Condition(states.base(lab), lab.tasks.names)
        return [states.answers_unit(lab, plain), *super().units(lab)]

    def end_points(self, lab: Lab) -> pd.DataFrame:
        """All answers at the end of training."""
        return states.all_items(lab, self._end_points(lab))

    def tables(self, lab: Lab) -> Tables:
        """One row per task, question, share and kind of controls."""
        return {"table2": table(gates.zero_shot(lab), self.items(lab))}

    def evidence(self, lab: Lab) -> Tables:
        """For C2 and C3."""
        return {"trained": self.items(lab), "plain": gates.zero_shot(lab)}

    def gates(self, lab: Lab) -> list[pd.DataFrame]:
        """Each task is learnt, at the end or, where only that is asked, soon.

        By the mean over all sets of neurons: by the task's own alone, tasks in which these did
        badly by chance would be left out of what they are compared in.
        """
        found = self.end_points(lab) if END_POINT in lab.plan.questions else self.items(lab)
        own = found[found["trained"] == found["task"]]
        return [gates.gate(lab, "trained", own)]


def table(plain: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Zero-shot, train-random, train-task, and the gain of task over random neurons.

    ``excess`` is the score of task minus random neurons, ``loss_gain`` the loss of random minus
    task neurons (nats per token): above 0, task neurons are better in both. Intervals are
    over seeds and items, in pairs.
    """
    rows = []
    own = items[items["trained"] == items["task"]]
    for (question, fraction, task), found in own.groupby(
        ["question", "fraction", "task"], sort=False
    ):
        base = plain[plain["task"] == task]
        chosen_rows = found[found["neurons"] == "task"]
        for match in MATCHES:
            random = found[found["match"] == match]
            row = {
                "task": task,
                "question": question,
                "fraction": fraction,
                "match": match,
                "metric": base["metric"].iloc[0],
                "updates": found["updates"].iloc[0],
                "lr_task": chosen_rows["lr"].iloc[0],
                "lr_random": random["lr"].iloc[0],
                "n": len(base),
                "zero_shot": base["score"].mean(),
                "loss_zero_shot": base["loss"].mean(),
            }
            for kind, group in (("random", random), ("task", chosen_rows)):
                score = interval(group)
                row |= {f"train_{kind}{end}": score[column] for column, end in _ENDS.items()}
                row[f"loss_{kind}"] = group["loss"].mean()
            row |= _difference("excess", chosen_rows, random, "score")
            row |= _difference("loss_gain", random, chosen_rows, "loss")
            rows.append(row)
    return pd.DataFrame(rows)


_ENDS = {"score": "", "low": "_low", "high": "_high"}


def _difference(
    name: str, above: pd.DataFrame, below: pd.DataFrame, column: str
) -> dict[str, float]:
    difference = seed_rows(above, column) - seed_rows(below, column)
    low, high = mean_interval(difference)
    return {name: float(difference.mean()), f"{name}_low": low, f"{name}_high": high}


def _sets(lab: Lab, fraction: float, seed: int) -> list[tuple[str, dict[str, NeuronSet]]]:
    """Each task's neurons and random ones of both kinds, by kind."""
    own = task_sets(lab, states.base(lab), fraction=fraction)
    return [
        (name, {"task": each, **{match: control(each, name, match, seed) for match in MATCHES}})
        for name, each in own.items()
    ]


def _described(name: str, kind: str, fraction: float, seed: int) -> dict[str, Any]:
    random = kind != "task"
    return {
        "trained": name,
        "neurons": "random" if random else "task",
        "match": kind if random else "",
        "fraction": fraction,
        "seed": seed,
    }
