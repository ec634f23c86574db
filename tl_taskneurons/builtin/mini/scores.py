"""Scores of a mini model on the mini tasks, by plain Hugging Face calls.

Classification compares the log-probabilities of the labels (each is one token); generation decodes
greedily up to the newline and takes ROUGE-L, the best over the references.
``python -m tl_taskneurons.builtin.mini.scores [MODEL ...]`` writes the table of all tasks.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)

from tl_taskneurons.builtin.mini.corpus import prompt_text
from tl_taskneurons.builtin.mini.folders import mini_model_folder, mini_model_names
from tl_taskneurons.builtin.mini.recipes import RECIPES, TOPICS, TWELVE
from tl_taskneurons.builtin.mini.tasks import mini_task
from tl_taskneurons.tasks import Task

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


def table(names: Sequence[str] = mini_model_names(), *, root: Path | None = None) -> str:
    """Return a Markdown table of the scores of mini models on all mini tasks, in percent."""
    columns = []
    for name in names:
        folder = mini_model_folder(name, root=root)
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        columns.append([score(model, tokenizer, mini_task(task, n_train=0)) for task in RECIPES])
    rows = {
        f"{task} ({'accuracy' if RECIPES[task].labels else 'ROUGE-L'})": [c[i] for c in columns]
        for i, task in enumerate(RECIPES)
    }
    order = list(RECIPES)
    for title, members in (
        ("mean of the six classification tasks", [t for t in TWELVE if RECIPES[t].labels]),
        ("mean of the six generation tasks", [t for t in TWELVE if not RECIPES[t].labels]),
        ("mean of the four topic tasks", list(TOPICS)),
    ):
        places = [order.index(task) for task in members]
        rows[f"**{title}**"] = [sum(c[i] for i in places) / len(places) for c in columns]
    lines = [
        "| task | " + " | ".join(names) + " |",
        "|---" * (len(columns) + 1) + "|",
        *(
            f"| {title} | " + " | ".join(f"{100 * value:.1f}" for value in values) + " |"
            for title, values in rows.items()
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(table(sys.argv[1:] or mini_model_names()))
