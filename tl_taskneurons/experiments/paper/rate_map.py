"""When task neurons beat random ones: the gap of losses over rate, updates and share (for C2).

One run is a curve: at a constant rate the model after n updates is the same whether or not training
goes on. Losses are of training examples that are held out. The runs of one seed hold out and order
the same examples, whatever is trained, so they are compared in pairs.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.evaluation.statistics import mean_interval
from tl_taskneurons.experiments.lab import states
from tl_taskneurons.experiments.lab.detection import task_sets
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.lab import Lab, control, name_of
from tl_taskneurons.experiments.lab.rates import HELD_OUT
from tl_taskneurons.experiments.lab.store import Result, Unit
from tl_taskneurons.experiments.paper.table1 import MATCHES
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.plots import gap_curves
from tl_taskneurons.training.finetune import finetune
from tl_taskneurons.training.settings import Training


class RateMap(Experiment):
    """The loss after training random neurons minus that after training the task's."""

    name = "rate_map"
    title = "when task neurons beat random ones"

    def units(self, lab: Lab) -> list[Unit]:
        """One unit per run."""
        sizes = lab.plan.map
        looks = HELD_OUT * _n_examples(lab) * sizes.updates[-1] / sizes.updates[0]
        # With few neurons trained a backward pass has no gradients of weights: 4 operations for
        # each weight and token in place of 6. A look is a forward pass.
        examples = round((4 * sizes.updates[-1] * lab.plan.batch_size + 2 * looks) / 6)
        return [
            lab.store.unit(
                f"map {about['task']}", result, lab.training_flops([about["task"]], examples)
            )
            for result, about in _runs(lab)
        ]

    def items(self, lab: Lab) -> pd.DataFrame:
        """Every loss: ``task, kind, fraction, lr, seed, updates, loss``."""
        frames = [lab.store.get(result).assign(**about) for result, about in _runs(lab)]
        return pd.concat(frames, ignore_index=True)

    def tables(self, lab: Lab) -> Tables:
        """The map over tasks and seeds, and the gap of each task."""
        gaps = gap_table(self.items(lab))
        return {"rate_map": mean_gaps(gaps), "rate_map_tasks": gaps}

    def draw(self, tables: Tables) -> dict[str, Figure]:
        """Draw the curves."""
        return {"rate_map": gap_curves(tables["rate_map"])}


def gap_table(losses: pd.DataFrame) -> pd.DataFrame:
    """One row per task, seed, share, rate, updates and kind of controls.

    ``gap`` is the loss of random minus that of task neurons, nats per token: above 0, task neurons
    are better. ``loss`` is that of the task's.
    """
    keys = ["fraction", "lr", "updates", "task", "seed"]
    wide = losses.pivot(index=keys, columns="kind", values="loss")
    own = wide["task"].rename("loss")
    frames = [
        (wide[match] - own).rename("gap").to_frame().assign(loss=own, match=match)
        for match in MATCHES
    ]
    return pd.concat(frames).reset_index()


def mean_gaps(gaps: pd.DataFrame) -> pd.DataFrame:
    """Means over tasks (each the mean of its seeds) with 95% intervals over tasks."""
    rows = []
    keys = ["match", "fraction", "lr", "updates"]
    for key, part in gaps.groupby(keys, sort=True):
        per_task = part.groupby("task")["gap"].mean()
        low, high = mean_interval(per_task.to_numpy()[None])
        about = dict(zip(keys, key, strict=True))
        rows.append(
            {
                **about,
                "gap": per_task.mean(),
                "low": low,
                "high": high,
                "loss": part["loss"].mean(),
                "n_tasks": len(per_task),
                "n_above": int((per_task > 0).sum()),
            }
        )
    return pd.DataFrame(rows)


def _runs(lab: Lab) -> Iterator[tuple[Result[pd.DataFrame], dict[str, Any]]]:
    """Every run with what describes it."""
    sizes = lab.plan.map
    names = lab.tasks.names if sizes.tasks is None else sizes.tasks
    for fraction in sizes.fractions:
        own = task_sets(lab, states.base(lab), fraction=fraction)
        for name in (name for name in names if name in own):
            for seed in sizes.seeds:
                sets = {match: control(own[name], name, match, seed) for match in MATCHES}
                for kind, neurons in {"task": own[name], **sets}.items():
                    for lr in sizes.rates:
                        about = {
                            "task": name, "kind": kind, "fraction": fraction, "lr": lr,
                            "seed": seed,
                        }  # fmt: skip
                        yield _run(lab, name, neurons, lr, seed), about


def _n_examples(lab: Lab) -> int:
    return min(lab.plan.n_train, lab.plan.map.examples)


def _run(lab: Lab, name: str, neurons: NeuronSet, lr: float, seed: int) -> Result[pd.DataFrame]:
    plan, updates = lab.plan, lab.plan.map.updates
    limit = _n_examples(lab)
    training = Training(
        lr=lr,
        steps=updates[-1],
        batch_size=plan.batch_size,
        schedule="constant",
        warmup=0.0,
        seed=seed,
        validation=HELD_OUT,
        evaluate_every=updates[0],
    )

    def compute() -> pd.DataFrame:
        delta = finetune(
            lab.base, lab.tasks[name], neurons, training, prompt=plan.prompt, limit=limit
        )
        losses = delta.history["validation_loss"].to_numpy()
        return pd.DataFrame({"updates": updates, "loss": [losses[n - 1] for n in updates]})

    key = {
        "model": lab.fingerprint,
        "neurons": name_of(neurons),
        "on": lab.examples(name, n_train=limit),
        "training": asdict(training),
        "updates": list(updates),
        "asked": lab.prompt_key,
    }
    return Result("map", key, compute)
