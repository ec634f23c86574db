"""Train the mini models again: ``python -m minis.train [--only llama]``.

For each architecture, in a row: the base corpus; a short look at the classification tasks among
corpus documents, because their answers are words that the corpus hardly uses (that is `base`); the
twelve tasks together; the same with most items from the tasks that compare two sentences, with
exercises and hints for them; a few rounds more with most items of the two paraphrase tasks, which
are the hardest, and of what is not yet good; last a slow one with an even mix (that is the
multitask model).
All on one thread, so that a seed gives the same weights on one machine.
"""

import argparse
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from minis.corpus import documents, prompt_text, vocabulary_texts
from minis.exercises import EXERCISES
from minis.hints import as_positions, hints
from minis.learning import Row, Schedule, fit, steps_done
from minis.saving import save_mini_model
from minis.scores import score
from tl_taskneurons.builtin.mini.lexicon import Draft
from tl_taskneurons.builtin.mini.recipes import RECIPES, TWELVE
from tl_taskneurons.builtin.mini.tasks import drafts, is_test, mini_task
from tl_taskneurons.builtin.mini.tokens import build_tokenizer
from tl_taskneurons.builtin.mini_models import mini_model_names
from tl_taskneurons.runtime.errors import InputError

DOCUMENTS = 80_000
ITEMS = 8000  # of each task's training side
GLIMPSE_ITEMS = 600  # of each classification task's training side
LABEL_WEIGHT = 5.0  # a label is one token of an example; an answer in words is about ten
CORPUS = Schedule(steps=600)
GLIMPSE = Schedule(steps=100, muon=0.01, adam=0.002, warmup=20)
MULTITASK = Schedule(steps=700)
COMPARE = Schedule(steps=1200, warmup=20)
PARAPHRASE = Schedule(steps=700, warmup=20)
POLISH = Schedule(steps=600, muon=0.015, adam=0.003, warmup=20)
LAST = Schedule(steps=900, warmup=20, seed=1)
SETTLE = Schedule(steps=250, muon=0.01, adam=0.002, warmup=10, seed=2)


@dataclass(frozen=True)
class Mix:
    """How many training items come from what.

    Attributes:
        tasks: items by task or by family; the task's own number counts first.
        others: items of every other task.
        exercises: items by exercise (the name of its function).
        within: whether hints also compare the sentences before a claim.
    """

    tasks: Mapping[str, int]
    others: int
    exercises: Mapping[str, int]
    within: bool = False


COMPARE_MIX = Mix(
    {"paraphrase": 8000, "inference": 8000, "sentiment": 1500}, others=2000,
    exercises={"reword": 4000, "roles": 4000, "equal": 4000},
)  # fmt: skip
PARAPHRASE_MIX = Mix(
    {"mini_roles": 14_000, "mini_reword": 8000, "mini_scenes": 4000, "mini_groups": 2000},
    others=500, exercises={"reword": 3000, "roles": 6000},
)  # fmt: skip


POLISH_MIX = Mix(
    {"mini_roles": 3000, "mini_reword": 12_000, "mini_scenes": 10_000, "mini_groups": 5000},
    others=1200, exercises={"reword": 2000, "roles": 1000},
)  # fmt: skip
LAST_MIX = Mix(
    {"mini_roles": 3000, "mini_reword": 12_000, "mini_scenes": 12_000, "mini_groups": 8000},
    others=1000, exercises={"reword": 1000}, within=True,
)  # fmt: skip
SETTLE_MIX = Mix(
    {"paraphrase": 8000, "inference": 8000}, others=1500, exercises={}, within=True
)  # fmt: skip

ROLES_MIX = Mix(
    {"mini_roles": 16_000, "mini_reword": 1500, "mini_scenes": 1500, "mini_groups": 1500},
    others=300, exercises={"roles": 8000},
)  # fmt: skip

# After the rounds that both need: the Llama is slow on inference, the Bloom on roles.
ROUNDS = {
    "llama": (("polish", POLISH, POLISH_MIX), ("last", LAST, LAST_MIX)),
    "bloom": (
        ("again", replace(PARAPHRASE, seed=1), PARAPHRASE_MIX), ("last", LAST, LAST_MIX),
        ("roles", replace(PARAPHRASE, seed=2), ROLES_MIX),
    ),
}  # fmt: skip


def empty_model(kind: str, tokenizer: Any, seed: int = 0) -> PreTrainedModel:
    """Return an untrained model: ``llama`` (gated) or ``bloom`` (plain, alibi)."""
    ids: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(seed)
    if kind == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512,
                num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
                max_position_embeddings=256, tie_word_embeddings=True, initializer_range=0.05,
                **ids,
            )
        )  # fmt: skip
    if kind == "bloom":
        return BloomForCausalLM(
            BloomConfig(
                vocab_size=len(tokenizer), hidden_size=128, n_layer=4, n_head=4,
                initializer_range=0.05, **ids,
            )
        )  # fmt: skip
    raise InputError(f"no mini architecture is called {kind!r}; the names are llama, bloom")


def corpus_rows(tokenizer: Any, seed: int = 0, count: int = DOCUMENTS) -> list[Row]:
    """Return the base corpus as sequences; every token after the BOS is learnt."""
    stream = documents(seed + 1)
    texts = [next(stream) for _ in range(count)]
    return [Row(tuple(ids)) for ids in tokenizer(texts)["input_ids"]]


def _row(tokenizer: Any, instruction: str, text: str, target: str, weight: float) -> Row:
    start = tokenizer(prompt_text(instruction, text))["input_ids"]
    end = tokenizer(f" {target}\n", add_special_tokens=False)["input_ids"]
    return Row((*start, *end), len(start), weight)


def task_rows(tokenizer: Any, names: Sequence[str], items: int, seed: int = 0) -> list[Row]:
    """Return tasks as sequences; only answer and newline are learnt."""
    rows = []
    for name in names:
        task = mini_task(name, n_train=items, n_test=0, seed=seed)
        weight = LABEL_WEIGHT if task.labels else 1.0
        rows += [_row(tokenizer, task.instruction, e.input, e.target, weight) for e in task.train]
    return rows


def glimpse_rows(tokenizer: Any, seed: int = 0) -> list[Row]:
    """Return a few items of the classification tasks, and as many documents."""
    labelled = [name for name in TWELVE if RECIPES[name].labels]
    rows = task_rows(tokenizer, labelled, GLIMPSE_ITEMS, seed)
    return rows + corpus_rows(tokenizer, seed, len(rows))


def _compared_row(tokenizer: Any, instruction: str, draft: Draft, *, within: bool) -> Row:
    """Return a comparison as a sequence with its hints."""
    row = _row(tokenizer, instruction, draft.input, draft.target, LABEL_WEIGHT)
    found = hints(draft, prompt_text(instruction, draft.input), within=within)
    token_of = tokenizer.get_vocab()
    return replace(
        row, early=as_positions(found.early, token_of), late=as_positions(found.late, token_of)
    )


def mixed_rows(tokenizer: Any, mix: Mix, seed: int = 0) -> list[Row]:
    """Return the twelve tasks and exercises in a mix; comparisons carry their hints."""
    rows = []
    for name in TWELVE:
        recipe = RECIPES[name]
        items = mix.tasks.get(name, mix.tasks.get(recipe.family, mix.others))
        if recipe.family not in ("paraphrase", "inference"):
            rows += task_rows(tokenizer, [name], items, seed)
            continue
        stream = drafts(recipe, random.Random(f"compare/{name}/{seed}"), test=False)
        for draft, _ in islice(stream, items):
            rows.append(_compared_row(tokenizer, recipe.instruction, draft, within=mix.within))
    for name, make in EXERCISES:
        rng = random.Random(f"exercises/{name}/{make.__name__}/{seed}")
        for _ in range(mix.exercises.get(make.__name__, 0)):
            while is_test(draft := make(rng, None)):
                pass
            rows.append(
                _compared_row(tokenizer, RECIPES[name].instruction, draft, within=mix.within)
            )
    return rows


def _report(model: Any, tokenizer: Any, name: str) -> None:
    for task_name in TWELVE:
        value = score(model, tokenizer, mini_task(task_name, n_train=0))
        sys.stderr.write(f"{name} {task_name} {value:.3f}\n")


def main(arguments: list[str] | None = None) -> None:
    """Train, save and score the models that the command line asks for."""
    parser = argparse.ArgumentParser(description="Train the mini models again.")
    parser.add_argument("--only", choices=("llama", "bloom"), help="train one architecture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the folders go (default: the package)")
    parser.add_argument("--scratch", type=Path, help="keep checkpoints here and resume from them")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    tokenizer = build_tokenizer(vocabulary_texts())
    for kind in (chosen.only,) if chosen.only else ("llama", "bloom"):
        began = time.perf_counter()
        model = empty_model(kind, tokenizer, chosen.seed)
        rounds = (
            ("compare", COMPARE, COMPARE_MIX), ("paraphrase", PARAPHRASE, PARAPHRASE_MIX),
            *ROUNDS[kind],
        )  # fmt: skip
        stages = (
            (f"mini-{kind}-corpus", CORPUS, corpus_rows),
            (f"mini-{kind}-base", GLIMPSE, glimpse_rows),
            (f"mini-{kind}-first", MULTITASK, partial(task_rows, names=TWELVE, items=ITEMS)),
            *(
                (f"mini-{kind}-{r}", schedule, partial(mixed_rows, mix=m))
                for r, schedule, m in rounds
            ),
            (f"mini-{kind}", SETTLE, partial(mixed_rows, mix=SETTLE_MIX)),
        )
        for name, schedule, make in stages:
            checkpoint = chosen.scratch / f"{name}.safetensors" if chosen.scratch else None
            finished = steps_done(checkpoint) >= schedule.steps
            rows = [] if finished else make(tokenizer, seed=chosen.seed)
            seconds = fit(model, rows, schedule, name=name, checkpoint=checkpoint)
            sys.stderr.write(f"{name}: trained in {seconds:.0f} s\n")
            if name in mini_model_names():
                save_mini_model(model, tokenizer, name, root=chosen.out)
                if not finished:
                    _report(model, tokenizer, name)
        sys.stderr.write(f"mini-{kind}: {time.perf_counter() - began:.0f} s in all\n")


if __name__ == "__main__":
    main()
