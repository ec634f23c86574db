"""What the tests of sharing do, alone in the test's process or in one that torchrun started.

As a script it runs every job in each process and writes ``RANK.pt``; see ``test_sharing``.
"""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helpers
import pandas as pd
import torch
import torch.distributed as dist

import tl_taskneurons as tn
from tl_taskneurons.cli import app as cli
from tl_taskneurons.runtime.sharing import Team

MODELS = [("llama", "bridge"), ("gpt2", "bridge")]
if helpers.HAS_HOOKED:
    MODELS += [("llama", "hooked")]
EXTRA = "é"  # a character that only one example has
WORDS = tn.task_from_dicts(
    "words",
    [
        {"input": "abcdefgh"[: 1 + i % 4] + str(i), "target": "xyzuvw"[i % 3 : 2 * (i % 3) + 1],
         "references": ["y", "zu"], "split": ("train", "test")[i % 2]}
        for i in range(14)
    ],
    metric="exact_match", instruction="Go",
)  # fmt: skip
LABELS = helpers.toy_task(7)
COMMAND = [
    "deactivate", "--model", "mini-llama", "--data", "mini", "--tasks", "mini_food,mini_news",
    "--limit", "6", "--test-limit", "5", "--controls", "1", "--ablation", "mean",
]  # fmt: skip
TRAIN = [
    "finetune", "--model", "mini-llama", "--data", "mini", "--tasks", "mini_food", "--limit", "6",
    "--test-limit", "3", "--fraction", "0.01", "--steps", "2", "--batch-size", "4",
]  # fmt: skip


def models(tokenizer: Any) -> dict[str, Any]:
    return {
        f"{name}-{kind}": helpers.tiny_lens(name, kind, tokenizer=tokenizer)
        for name, kind in MODELS
    }


def detected(model: Any, *, every: bool) -> dict[str, torch.Tensor]:
    """The scores of all methods, or of the usual one alone."""
    if not every:
        return {"grad_act": tn.score_neurons(model, WORDS).values}
    some = tn.NeuronSet.from_pairs(model, [(0, 3), (1, 40), (1, 41)])
    found = {
        method: tn.score_neurons(
            model, WORDS, method, neurons=some if method == "exact" else None, steps=2
        ).values
        for method in tn.METHODS
    }
    found["one batch of one example"] = tn.score_neurons(model, WORDS, limit=1).values
    found["small batches"] = tn.score_neurons(model, WORDS, token_budget=60).values
    found["mean"] = tn.activation_mean(model, WORDS)
    return found


def evaluated(model: Any) -> dict[str, pd.DataFrame]:
    """Every way of scoring answers."""
    rouge = tn.Task("rouge", WORDS.train, WORDS.test, metric="rougeL", instruction="Go")
    loss = tn.Task("loss", WORDS.train, WORDS.test, metric="loss")
    sets = {"words": tn.NeuronSet.from_pairs(model, [(0, i) for i in range(20)])}
    few = tn.Prompt(shots=1)
    return {
        "rank": tn.evaluate_items(model, LABELS),
        "match": tn.evaluate_items(model, WORDS),
        "generate": tn.evaluate_items(model, LABELS, generation=True, max_new_tokens=3),
        "rouge": tn.evaluate_items(model, rouge, max_new_tokens=4),
        "loss": tn.evaluate_items(model, loss),
        "one": tn.evaluate_items(model, WORDS, limit=1),
        "prefix": tn.evaluate_items(model, WORDS, prompt=few, share_prefix=True),
        "summary": tn.evaluate(model, [WORDS, LABELS]),
        "silenced": tn.deactivation_items(model, [WORDS, LABELS], sets, controls=1),
    }


def trained(model: Any, folder: Path) -> dict[str, Any]:
    """Neurons trained in several ways, and their histories."""
    some = tn.NeuronSet.from_pairs(model, [(0, 3), (0, 7), (1, 1), (1, 40)])
    usual = tn.Training(lr=1e-2, steps=4, batch_size=5, weight_decay=0.1, validation=0.3)
    few = tn.Training(lr=1e-2, steps=3, batch_size=1)
    pieces = tn.Training(lr=1e-2, steps=2, batch_size=2, accumulate=2, evaluate_every=1)
    scale = torch.linspace(0, 1, 96).view(2, 48)
    deltas = {
        "usual": tn.finetune(model, WORDS, some, usual, checkpoint=folder / "usual.checkpoint"),
        "one example a step": tn.finetune(model, WORDS, some, few),
        "accumulated": tn.finetune(model, [WORDS, LABELS], some, pieces),
        "scaled": tn.finetune(model, WORDS, some, usual, update_scale=scale),
    }
    result = {name: (dict(d.trained), d.history.to_dict("list")) for name, d in deltas.items()}
    every = tn.finetune_all(model, WORDS, training=tn.Training(lr=1e-3, steps=2, weight_decay=0.1))
    return {**result, "all weights": (dict(every.trained), every.history.to_dict("list"))}


@contextlib.contextmanager
def weights_of_extra_broken(model: Any) -> Iterator[None]:
    """While open, every text with the extra character gives a loss that is not a number."""
    weight = model.original_model.get_input_embeddings().weight
    row = EXTRA.encode()[0]
    before = weight.detach()[row].clone()
    with torch.no_grad():
        weight[row] = torch.nan
        yield
        weight[row] = before


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def failures(model: Any, tokenizer: Any, rank: int, folder: Path) -> dict[str, str]:
    """Calls that must raise in every process."""
    other = helpers.tiny_lens("llama", seed=rank, tokenizer=tokenizer)
    some = tn.NeuronSet.from_pairs(model, [(0, 3)])
    differing = tn.NeuronSet.from_pairs(model, [(0, rank)])
    (folder / "a file").touch()
    calls = {
        "model": lambda: tn.score_neurons(other, WORDS),
        "examples": lambda: tn.evaluate_items(model, WORDS, limit=3 + rank),
        "settings": lambda: tn.finetune(model, WORDS, some, tn.Training(lr=0.1 + rank, steps=1)),
        "neurons": lambda: tn.deactivation_items(model, [WORDS], {"words": differing}),
        "place": lambda: (tn.score_neurons if rank else tn.evaluate_items)(model, WORDS),
        "disk": lambda: tn.finetune(
            model, WORDS, some, tn.Training(steps=1), checkpoint=folder / "a file" / "checkpoint"
        ),
    }
    found = {name: error_of(call) for name, call in calls.items()}
    odd = tn.task_from_dicts(
        "odd",
        [{"input": text, "target": "x", "split": split}
         for text in ("aa", "b", EXTRA, "cc") for split in ("train", "test")],
        metric="exact_match",
    )  # fmt: skip
    broken = {
        "score": lambda: tn.score_neurons(model, odd),
        "evaluate": lambda: tn.evaluate_items(model, odd),
        "train": lambda: tn.finetune(model, odd, some.rebind(model), tn.Training(steps=1)),
        "hold out": lambda: tn.finetune(
            model, odd, some.rebind(model), tn.Training(steps=1, batch_size=1, validation=0.7)
        ),
    }
    with weights_of_extra_broken(model):
        return found | {f"loss, {name}": error_of(call) for name, call in broken.items()}


def rows_run(model: Any) -> tuple[int, int]:
    """How many rows the model sees to score seven examples and to evaluate as many."""
    rows: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    tn.score_neurons(model, WORDS)
    scored = sum(rows)
    tn.evaluate_items(model, tn.Task("loss", WORDS.train, WORDS.test, metric="loss"))
    handle.remove()
    return scored, sum(rows) - scored


def printed(arguments: list[str]) -> tuple[int, str]:
    """Run the command line and return its exit code and what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        return cli.main(arguments), out.getvalue()


def main(folder: Path) -> None:
    rank = dist.get_rank()
    tokenizer = helpers.tiny_tokenizer(folder / f"tokenizer-{rank}")
    shared = models(tokenizer)
    model = shared["llama-bridge"]
    result: dict[str, Any] = {}
    if rank == 0:  # would wait for the other process for ever if it were shared
        result["outside"] = rows_run(model)
    with tn.share_work() as team:
        assert isinstance(team, Team)
        result["team"] = (team.rank, team.size, str(team.device), team.leads)
        with tn.share_work() as inner:
            result["nested"] = inner is team
        result["rows"] = rows_run(model)
        for name, one in shared.items():
            result[f"detected {name}"] = detected(one, every=name == "llama-bridge")
            result[f"trained {name}"] = trained(one, folder / name)
            if name.endswith("bridge"):
                frames = evaluated(one)
                result[f"evaluated {name}"] = {key: f.to_json() for key, f in frames.items()}
        result["failures"] = failures(model, tokenizer, rank, folder)
        result["after failures"] = detected(model, every=False)
    result["still in use"] = dist.is_initialized()
    dist.destroy_process_group()
    result["command"] = printed([*COMMAND, "--out", str(folder / "run")])
    result["again"] = printed([*COMMAND, "--out", str(folder / "run")])
    result["refused"] = printed([*COMMAND, "--out", str(folder / "run"), "--fraction", "0.5"])
    result["finetune"] = printed([*TRAIN, "--out", str(folder / "delta.safetensors")])
    result["report"] = printed(["report", str(folder / "run")])
    result["taken down"] = not dist.is_initialized()
    torch.save(result, folder / f"{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    main(Path(sys.argv[1]))
