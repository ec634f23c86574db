"""How good rankings of neurons are, method by method, on tasks that a model can do.

    python benchmarks/methods.py --out build/methods [--model smollm2-135m] [--tasks a,b]
        [--table figures/methods_smollm2-135m.csv]

Each method scores a task's neurons on training examples; test examples say what the task loses
without the top of the ranking (necessity), keeps with it alone (sufficiency), and what other tasks
lose without it (harm): areas of ``ablation_curves`` in the probability of the answer (in nats they
would mostly say how badly a model breaks that has lost the task long since; right answers are too
few to tell methods apart). Run ``methods_search.py`` with the same ``--out`` first: the sets that
it found head a ranking of their own. Single neurons are ablated one by one to see how well the
scores foresee it. A run that was stopped goes on.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
from methods_setup import Setting, cells, parsed, save, setting_of

import tl_taskneurons as tn
from tl_taskneurons.models.view import view
from tl_taskneurons.runtime.stored import stored

# Name in the table: method and options of scoring.
METHODS = {
    "grad_act": ("grad_act", {}),
    "grad_act, signed": ("grad_act", {"signed": True}),
    "relp, signed": ("relp", {"signed": True}),
    "ig_inputs, signed": ("ig_inputs", {"signed": True, "steps": 3, "ablation": "resample"}),
    "activation": ("activation", {}),
    "activation_weight": ("activation_weight", {}),
    "frequency": ("frequency", {}),
    "weight_norm": ("weight_norm", {}),
    "random": ("random", {}),
}
OUTSIDE = "grad_act, signed, outside others' top 3%"
OTHERS = 2


def scored(setting: Setting, task: tn.Task, name: str) -> tuple[tn.NeuronScores, float]:
    """Score by a method, or read it; also what that cost in forward passes."""
    method, options = METHODS[name]
    stem = name.replace(", ", "_")
    cost = setting.folder / "costs" / f"{task.name}_{stem}.csv"

    def compute() -> tn.NeuronScores:
        start = time.process_time()
        scores = tn.score_neurons(
            setting.model, task, method, prompt=setting.prompts[task.name],
            limit=setting.sizes.score, **options,
        )  # fmt: skip
        save(cost, pd.DataFrame({"seconds": [time.process_time() - start]}))
        return scores

    scores = stored(
        setting.folder / "scores" / f"{task.name}_{stem}.ranking.safetensors", compute,
        load=tn.NeuronScores.load, save=lambda path, found: found.save(path),
    )  # fmt: skip
    return scores, float(pd.read_csv(cost)["seconds"][0])


def forward_seconds(setting: Setting, task: tn.Task) -> float:
    """The seconds of a forward pass over the examples that are scored."""

    def compute() -> pd.DataFrame:
        start = time.process_time()
        tn.evaluate(setting.model, task, split="train", prompt=setting.prompts[task.name],
                    limit=setting.sizes.score, metric="loss")  # fmt: skip
        return pd.DataFrame({"seconds": [time.process_time() - start]})

    path = setting.folder / "costs" / f"{task.name}.csv"
    return float(stored(path, compute, load=pd.read_csv, save=save)["seconds"][0])


def search_seconds(setting: Setting, task: tn.Task) -> float:
    """What the search of the task took; nothing where it was not searched."""
    path = setting.folder / "search" / f"{task.name}.csv"
    return float(pd.read_csv(path)["seconds"].max()) if path.exists() else 0.0


def outside(setting: Setting, task: tn.Task, own: tn.NeuronScores) -> tn.NeuronScores:
    """Signed effects, those in others' top 3% last."""
    rivals = [setting.scores(rival) for rival in setting.rivals(task)]
    taken = torch.stack([rival.top(fraction=0.03).mask for rival in rivals]).any(0)
    values = own.side("help").values.masked_fill(taken, 0.0)
    return tn.NeuronScores(values, own.fingerprint, own.name)


def ours(setting: Setting, task: tn.Task, rest: tn.NeuronScores) -> tn.NeuronScores:
    """The searched set first, where there is one; then the rest as it is ranked."""
    found = setting.folder / "sets" / f"{task.name}.safetensors"
    if not found.exists():
        return rest
    first = tn.NeuronSet.load(found).mask
    values = torch.where(first, rest.values + rest.values.max(), rest.values)
    return replace(rest, values=values)


def rank(setting: Setting, name: str) -> pd.DataFrame:
    """Compare the methods on one task; one row each."""
    task = next(task for task in setting.tasks if task.name == name)
    sizes, prompt = setting.sizes, setting.prompts[name]
    passes = forward_seconds(setting, task)
    found = {method: scored(setting, task, method) for method in METHODS}
    rankings = {method: scores for method, (scores, _) in found.items()}
    costs = {method: seconds / passes for method, (_, seconds) in found.items()}
    rankings[OUTSIDE] = outside(setting, task, rankings["grad_act, signed"])
    costs[OUTSIDE] = costs["grad_act, signed"] * (1 + len(setting.rivals(task)))
    searched = f"find_neurons, then {OUTSIDE}"
    rankings[searched] = ours(setting, task, rankings[OUTSIDE])
    costs[searched] = costs[OUTSIDE] + search_seconds(setting, task) / passes
    curves = tn.ablation_curves(
        setting.model, task, rankings, fractions=sizes.shares,
        others=same_prompt(setting, task), prompt=prompt, limit=sizes.curve, share_prefix=True,
        metric="prob",
    )  # fmt: skip
    table = curves.areas.rename(columns={"ranking": "method"})
    sample = sampled(setting, rankings["grad_act"])
    exact = tn.score_neurons(
        setting.model, task, "exact", neurons=sample, prompt=prompt, limit=sizes.exact
    ).values[sample.mask]
    foreseen = {
        method: pd.Series(scores.values.abs()[sample.mask]).corr(pd.Series(exact), "spearman")
        for method, scores in rankings.items()
    }
    table.insert(0, "model", setting.name)
    table.insert(1, "task", name)
    table["spearman"] = table["method"].map(foreseen)
    table["forward_passes"] = table["method"].map(costs)
    return table


def same_prompt(setting: Setting, task: tn.Task) -> list[tn.Task]:
    """The other tasks whose harm is measured, which read the task's form of prompt best too."""
    prompt = setting.prompts[task.name]
    others = setting.others(task)
    alike = [other for other in others if setting.prompts[other.name] == prompt]
    return [*alike, *(other for other in others if other not in alike)][:OTHERS]


def sampled(setting: Setting, scores: tn.NeuronScores) -> tn.NeuronSet:
    """Neurons to ablate one by one: the top of the usual score, and as many at random."""
    half = setting.sizes.sample // 2
    top = scores.top(n=half)
    # Not the seed of the method "random", whose highest scores these would be.
    lottery = torch.rand(scores.values.shape, generator=torch.Generator().manual_seed(1))
    drawn = tn.NeuronScores(
        lottery.masked_fill(top.mask, 0.0), view(setting.model).fingerprint, "drawn"
    )
    return top | drawn.top(n=half)


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Compare what is missing, and put the tasks' tables together."""
    given = parsed(argv, __doc__)
    setting = setting_of(given)
    names = [task.name for task in setting.tasks]
    return cells(setting.folder / "rankings", names, lambda name: rank(setting, name), given.table)


if __name__ == "__main__":
    main()
