"""How many neurons carry subject-verb agreement: an outside yardstick.

    python benchmarks/sva.py PAIRS [--model smollm2-135m] [--table figures/sva_smollm2-135m.csv]

PAIRS is a folder of CASE_train.jsonl and CASE_test.jsonl, the contrasting pairs of Marks et al.
2025 (arXiv 2403.19647; github.com/saprmarks/feature-circuits): ``clean_prefix, patch_prefix,
clean_answer, patch_answer``. Neurons are scored on training pairs: the effect on the logit
difference of the two verbs when a neuron takes the activation that it has in the other prompt.
Then the top k take it together on test pairs; 100% is what all neurons of the model do together.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from methods_setup import save

import tl_taskneurons as tn

CASES = ("simple", "nounpp", "within_rc")
METHODS = ("grad_act", "relp", "ig_inputs")
COUNTS = (1, 3, 10, 30, 100, 300, 1000)


def task_of(folder: Path, case: str) -> tn.Task:
    """Read a case's pairs; answers that one word's first token can't tell apart are left out."""
    splits = {}
    for split in ("train", "test"):
        lines = (folder / f"{case}_{split}.jsonl").read_text(encoding="utf-8").splitlines()
        splits[split] = tuple(
            tn.Example(
                row["clean_prefix"], row["clean_answer"].strip(),
                wrong=(row["patch_answer"].strip(),), counterfactual=row["patch_prefix"],
            )
            for row in map(json.loads, lines)
        )  # fmt: skip
    return tn.Task(case, splits["train"], splits["test"], metric="exact_match")


def same_length(model: object, task: tn.Task) -> tn.Task:
    """Keep the pairs whose prompts have as many tokens, so that each has its counterpart."""
    tokenizer = model.tokenizer  # type: ignore[attr-defined]
    kept = {
        split: tuple(
            pair for pair in task.split(split)
            if len(tokenizer(pair.input)["input_ids"])
            == len(tokenizer(str(pair.counterfactual))["input_ids"])
        )
        for split in ("train", "test")
    }  # fmt: skip
    return tn.Task(task.name, kept["train"], kept["test"], metric=task.metric)


def carried(model: object, name: str, task: tn.Task, given: argparse.Namespace) -> pd.DataFrame:
    """One row for each method and number of neurons."""
    prompt = tn.Prompt(raw=True, end="")
    asked = {"metric": "logit_diff", "ablation": "counterfactual", "prompt": prompt}
    rankings = {
        method: tn.score_neurons(
            model, task, method, limit=given.train, signed=True, steps=5, **asked
        )
        for method in METHODS
    }
    n_all = rankings[METHODS[0]].values.numel()
    shares = [count / n_all for count in COUNTS if count < n_all]
    curves = tn.ablation_curves(
        model, task, rankings, fractions=[*shares, 1.0], limit=given.test, **asked
    )
    table = curves.table[curves.table["curve"].isin(["necessity", "sufficiency"])]
    table = table.assign(model=name, taken=1 - table["faithfulness"])
    return table[["model", "task", "ranking", "curve", "n_neurons", "value", "taken"]]


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Measure every case; print how many neurons carry 90%."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--train", type=int, default=64)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--table", type=Path)
    given = parser.parse_args(argv)
    model, name = tn.load_model(given.model, device="cpu"), Path(given.model).stem
    tables = []
    for case in given.cases:
        task = same_length(model, task_of(given.pairs, case))
        tables.append(carried(model, name, task, given))
        whole = pd.concat(tables, ignore_index=True)
        if given.table:
            save(given.table, whole.round(4))
        print(enough(tables[-1]).to_string(index=False), flush=True)
    return whole


def enough(table: pd.DataFrame, share: float = 0.9) -> pd.DataFrame:
    """The fewest neurons, of those tried, that take a share of the difference."""
    taken = table[(table["curve"] == "necessity") & (table["taken"] >= share)]
    return taken.groupby(["model", "task", "ranking"], sort=False)["n_neurons"].min().reset_index()


if __name__ == "__main__":
    main()
