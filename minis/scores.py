"""Scores of a mini model on the mini tasks, by plain Hugging Face calls.

Classification compares the log-probabilities of the labels (each is one token); generation decodes
greedily up to the newline and takes ROUGE-L, the best over the references.
``python -m minis.scores [MODEL ...] --csv FILE`` writes the table of all
tasks.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoModelForCausalLM, AutoTokenizer

from minis.corpus import prompt_text
from tl_taskneurons.builtin.mini.recipes import RECIPES
from tl_taskneurons.builtin.mini.tasks import mini_task
from tl_taskneurons.builtin.mini_models import mini_model_folder, mini_model_names
from tl_taskneurons.runtime.atomic import write_atomically
from tl_taskneurons.tasks.task import Task

_ROUGE = RougeScorer(["rougeL"])


def _by_length(task: Task, tokenizer: Any) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for i, example in enumerate(task.test):
        ids = tokenizer(prompt_text(task.instruction, example.input))["input_ids"]
        groups[len(ids)].append(i)
    return groups


@torch.no_grad()
def answers(model: Any, tokenizer: Any, task: Task) -> list[str]:
    """Return the model's answer to each test item: the best label, or the text it generates.

    Prompts of one length go together, so nothing is padded.
    """
    found = [""] * len(task.test)
    newline = tokenizer.convert_tokens_to_ids("\n")
    labels = [tokenizer.convert_tokens_to_ids(f" {label}") for label in task.labels]
    for members in _by_length(task, tokenizer).values():
        texts = [prompt_text(task.instruction, task.test[i].input) for i in members]
        ids = torch.tensor([tokenizer(text)["input_ids"] for text in texts])
        if labels:
            best = model(input_ids=ids).logits[:, -1][:, labels].argmax(-1)
            for i, choice in zip(members, best.tolist(), strict=True):
                found[i] = task.labels[choice]
            continue
        made = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
            max_new_tokens=32, eos_token_id=newline, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        for i, row in zip(members, made[:, ids.shape[1] :], strict=True):
            text = tokenizer.decode(row, skip_special_tokens=True)
            found[i] = text.split("\n")[0].strip()
    return found


def score(model: Any, tokenizer: Any, task: Task) -> float:
    """Return accuracy or mean ROUGE-L (both 0 to 1) on the task's test items."""
    values = []
    for example, found in zip(task.test, answers(model, tokenizer, task), strict=True):
        if task.labels:
            values.append(float(found == example.target))
        else:
            values.append(
                max(_ROUGE.score(wanted, found)["rougeL"].fmeasure for wanted in example.accepted)
            )
    return sum(values) / len(values)


def measure(
    names: Sequence[str] = mini_model_names(), *, tasks: Sequence[str] = tuple(RECIPES),
    root: Path | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Return the scores of mini models on the test items of mini tasks.

    Args:
        names: The models.
        tasks: The tasks, by default all sixteen.
        root: Where the models' folders are; None means inside the package.

    Returns:
        One row per model and task: ``model, task, metric, score`` (0 to 1), ``n`` (items).
    """
    rows = []
    for name in names:
        folder = mini_model_folder(name, root=root)
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for task_name in tasks:
            task = mini_task(task_name, n_train=0)
            rows.append(
                {"model": name, "task": task_name, "metric": task.metric,
                 "score": score(model, tokenizer, task), "n": len(task.test)}
            )  # fmt: skip
    return pd.DataFrame(rows)


def main(arguments: list[str] | None = None) -> None:
    """Write one row per model and task as CSV."""
    parser = argparse.ArgumentParser(description="Score the mini models on the mini tasks.")
    parser.add_argument("models", nargs="*", default=list(mini_model_names()))
    parser.add_argument("--csv", type=Path, required=True, help="the file")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    scores = measure(chosen.models).round(4)
    write_atomically(chosen.csv, lambda part: scores.to_csv(part, index=False))


if __name__ == "__main__":
    main()
