"""How few neurons carry a task, and what others lose without them, on test examples.

    python benchmarks/methods_search.py --out build/methods [--model smollm2-135m] [--tasks a,b]
        [--table figures/methods_search_smollm2-135m.csv] [--no-masks]

``find_neurons`` searches on training examples of each built-in task that the model can do; what
the set takes and harms is measured on test examples, beside sets of as many neurons that are found
otherwise, and on the first neurons of the search alone: among them the neurons of the largest
gates of a learned mask, of all neurons and of those that the search may take too. A run that was
stopped goes on.
"""

import time
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from methods_setup import Setting, cells, chance_of, parsed, save, setting_of

import tl_taskneurons as tn
from tl_taskneurons.analysis.probe import UnableWarning
from tl_taskneurons.analysis.search import GoalNotReachedWarning
from tl_taskneurons.runtime.stored import stored

# A task is taken whose score falls so far on test examples, by at most so many neurons, and at
# the cost of at most so many points of the others on average. The goal is higher on held-out
# training examples, as the set was chosen by them: one right answer may be left of 48.
BUDGET = 50
LIMITS = tn.Limits(
    goal=0.94,
    margin=1.0,
    budget=BUDGET,
    harm=0.02,
    outside=(0.03, 0.01, 0.003),
    first=4,
    checks=8,
)
COLUMNS = ["model", "task", "set", "n_neurons", "plain", "left", "taken", "others_lose"]


def silenced(
    setting: Setting, task: tn.Task, neurons: tn.NeuronSet, others: Sequence[tn.Task],
    before: Sequence[float],
) -> dict[str, Any]:  # fmt: skip
    """What silencing a set does to the test examples of the task and of others, in points."""
    sizes = setting.sizes
    with tn.deactivate(setting.model, neurons):
        after = setting.values([task], sizes.test)
        after += setting.values(others, sizes.harmed) if others else []
    lost = [100 * (b - a) for b, a in zip(before, after, strict=False)]
    harm = pd.Series(lost[1:], dtype=float)
    chance = chance_of(task)
    return {
        "n_neurons": len(neurons), "plain": 100 * before[0], "left": 100 * after[0],
        "taken": (before[0] - after[0]) / max(before[0] - chance, 1e-9),
        "others_lose": harm.mean(), "others_lose_most": harm.max(),
    }  # fmt: skip


def question_of(setting: Setting) -> tn.Question:
    """Return on how many examples, with which prompts, neurons are searched."""
    sizes = setting.sizes
    return tn.Question(
        prompt=setting.prompts,
        n_score=sizes.score,
        n_held=sizes.held,
        n_spared=sizes.spared,
        draws=sizes.draws,
    )


def others_of(setting: Setting, task: tn.Task) -> list[tn.Task]:
    """Return the tasks that the search spared first, then those it knows nothing of."""
    rivals = setting.rivals(task)
    return [*rivals, *(each for each in setting.others(task) if each not in rivals)]


def search(setting: Setting, name: str) -> pd.DataFrame:
    """Search one task's neurons; one row for each set that is measured."""
    task = next(task for task in setting.tasks if task.name == name)
    rivals, sizes, others = setting.rivals(task), setting.sizes, others_of(setting, task)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GoalNotReachedWarning)
        warnings.simplefilter("ignore", UnableWarning)  # on the few examples that are spared
        found = tn.find_neurons(
            setting.model, task, rivals, limits=LIMITS,
            question=question_of(setting),
            known={rival.name: setting.scores(rival) for rival in rivals},
        )  # fmt: skip
    seconds = time.process_time() - start
    found.neurons.save(setting.folder / "sets" / f"{name}.safetensors")
    found.curve.to_csv(setting.folder / "sets" / f"{name}_tried.csv", index=False)
    before = [setting.undisturbed(task, sizes.test)]
    before += [setting.undisturbed(other, sizes.harmed) for other in others]
    rows: list[dict[str, Any]] = []

    def add(kind: str, neurons: tn.NeuronSet, harmed: Sequence[tn.Task], **facts: Any) -> None:
        measured = silenced(setting, task, neurons, harmed, before)
        rows.append({"model": setting.name, "task": name, "set": kind, **measured, **facts})

    add("find_neurons", found.neurons, others, reached=found.reached, held_out=found.toll.taken,
        held_out_harm=100 * found.toll.harm, seconds=round(seconds))  # fmt: skip
    size = len(found.order)
    known = {each.name: setting.scores(each) for each in [task, *rivals]}
    exclude = tn.select(known, "exclude", fraction=0.01)[name]
    ranked = tn.NeuronScores(known[name].values * exclude.mask, known[name].fingerprint, name)
    add("exclude, as many", ranked.top(n=size), rivals)
    add("top, as many", known[name].top(n=size), rivals)
    add("random, as many", found.neurons.random_like(0), ())
    for first in [1, 2, 4, 8, 16, 32]:
        if first < size:
            few = tn.NeuronSet.from_pairs(setting.model, found.order[:first], name)
            add("the first of find_neurons", few, ())
    return pd.DataFrame(rows)


def masked(setting: Setting, name: str, size: int) -> pd.DataFrame:
    """Learn a mask for one task; one row each for its top of all neurons, and of candidates."""
    task = next(task for task in setting.tasks if task.name == name)
    rivals, sizes, others = setting.rivals(task), setting.sizes, others_of(setting, task)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnableWarning)
        mask = tn.learn_mask(setting.model, task, rivals, question=question_of(setting))
    seconds = time.process_time() - start
    mask.save(setting.folder / "sets" / f"{name}_mask.safetensors")
    share = LIMITS.outside[0]
    taken = torch.stack([setting.scores(rival).top(fraction=share).mask for rival in rivals])
    outside = tn.NeuronScores(mask.values.masked_fill(taken.any(0), 0.0), mask.fingerprint, name)
    before = [setting.undisturbed(task, sizes.test)]
    before += [setting.undisturbed(other, sizes.harmed) for other in others]
    rows = []
    for kind, scores in (("mask", mask), (f"mask outside {share:.0%}", outside)):
        measured = silenced(setting, task, scores.top(n=size), others, before)
        facts = {"model": setting.name, "task": name, "set": f"{kind}, as many"}
        rows.append({**facts, **measured, "seconds": round(seconds)})
    return pd.DataFrame(rows)


def compared(setting: Setting, name: str) -> pd.DataFrame:
    """Search one task's neurons and learn a mask, or read what is there of both."""
    found = stored(setting.folder / "search" / f"{name}.csv", lambda: search(setting, name),
                   load=pd.read_csv, save=save)  # fmt: skip
    size = int(found.loc[found["set"] == "find_neurons", "n_neurons"].iloc[0])
    mask = stored(setting.folder / "masks" / f"{name}.csv", lambda: masked(setting, name, size),
                  load=pd.read_csv, save=save)  # fmt: skip
    return pd.concat([found, mask], ignore_index=True)


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Search what is missing, and put the tasks' tables together."""
    given = parsed(argv, __doc__, {"no-masks": "search only; masks take twice as long"})
    setting = setting_of(given)
    if given.table:
        save(given.table.with_name(f"methods_gate_{setting.name}.csv"), setting.gate.round(4))
    (setting.folder / "sets").mkdir(parents=True, exist_ok=True)
    names = [task.name for task in setting.tasks]
    if given.no_masks:
        return cells(setting.folder / "search", names, partial(search, setting), given.table)
    return cells(setting.folder / "compared", names, partial(compared, setting), given.table)


if __name__ == "__main__":
    main()
