"""The evaluation harness with its own Hugging Face class and with ours, on the same items.

    python benchmarks/harness.py [--model smollm2-135m] [--limit 32]

Three small tasks, one for each kind of request: choices by log-likelihood, generated answers, and
the log-likelihood of texts. Each is run as it is, with and without BOS, and with random neurons
silenced: by ``deactivate`` in our model, by zeros in the output weights of Hugging Face's.
Compared are the harness's metrics and every single answer. BOS stands in the prompts that the
harness's class reads: its ``add_bos_token`` asks the tokenizer for it, and SmolLM2's gives none.
"""

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import datasets
import measure
import pandas as pd
import torch
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from targets import Target

import tl_taskneurons as tn
from tl_taskneurons.evaluation.harness_model import HarnessModel
from tl_taskneurons.loading.huggingface import find_source, read_source

SHOTS, FRACTION = 4, 0.01
TEXT = "Rain fell on the town all night, and in the morning {} boats stood at the bridge."
METRICS = {"choices": ("acc",), "answers": ("exact_match",), "texts": ("word_perplexity",)}
# Nats of a log-likelihood; float32 with other orders of summation.
MOST_NATS = 1e-3
CONDITIONS = {
    "as it is": (False, False), "with BOS": (True, False), "with BOS, silenced": (True, True),
}  # fmt: skip


def configurations(model: Any, limit: int, bos: str = "") -> list[dict[str, Any]]:
    """The three tasks of the harness, made of a built-in task's examples; BOS comes first."""
    task = measure.real_task(model, "present_past")
    shots = "".join(
        f"Input: {one.input}\nOutput: {one.target}\n\n" for one in task.train[:SHOTS]
    )  # fmt: skip
    targets = [one.target for one in task.test]
    rows = [
        {
            "input": one.input,
            "target": one.target,
            # The answer, and those of the next three examples.
            "choices": list(dict.fromkeys([*targets[i:], *targets][:4])),
            "text": TEXT.format(i),
        }
        for i, one in enumerate(task.test[:limit])
    ]
    prompt = f"{bos}{task.instruction}\n\n{shots}Input: {{{{input}}}}\nOutput:"
    kinds: dict[str, dict[str, Any]] = {
        "choices": {
            "output_type": "multiple_choice", "doc_to_text": prompt, "doc_to_target": 0,
            "doc_to_choice": "{{choices}}",
        },
        "answers": {
            "output_type": "generate_until", "doc_to_text": prompt, "doc_to_target": " {{target}}",
            "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 12},
        },
        "texts": {
            "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
        },
    }  # fmt: skip
    return [
        {
            "task": name, "test_split": "test", **kind,
            "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
            "metric_list": [{"metric": metric} for metric in METRICS[name]],
        }
        for name, kind in kinds.items()
    ]  # fmt: skip


def answered(lm: Any, tasks: Sequence[dict[str, Any]]) -> tuple[dict[str, float], dict[str, list]]:
    """Return a model's metrics, and each of its answers: log-likelihoods or texts."""
    found: Any = evaluator.simple_evaluate(
        lm, tasks=[dict(task) for task in tasks], bootstrap_iters=0, log_samples=True,
        task_manager=TaskManager(include_defaults=False), random_seed=None,
        numpy_random_seed=None, torch_random_seed=None,
    )  # fmt: skip
    metrics, answers = {}, {}
    for task, names in METRICS.items():
        for name in names:
            metrics[f"{task}: {name}"] = found["results"][task][f"{name},none"]
        samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
        answers[task] = [_first(given) for sample in samples for given in sample["resps"]]
    return metrics, answers


def _first(given: Any) -> Any:
    """The text or the log-likelihood of an answer, without whether greedy decoding gives it."""
    while isinstance(given, list | tuple):
        given = given[0]
    return given


@contextmanager
def zeroed(hf: Any, neurons: tn.NeuronSet) -> Iterator[None]:
    """Silence neurons in Hugging Face's model: columns of the matrix that reads them are 0."""
    kept = {}
    for layer, indices in neurons.layers().items():
        weight = hf.model.layers[layer].mlp.down_proj.weight
        kept[layer] = weight.data.clone()
        weight.data[:, indices] = 0
    try:
        yield
    finally:
        for layer, weight in kept.items():
            hf.model.layers[layer].mlp.down_proj.weight.data.copy_(weight)


def compare(given: Namespace) -> pd.DataFrame:
    """Return one row per condition and task; call it in a process of its own."""
    model = tn.load_model(given.model, device="cpu")
    _, hf, tokenizer = read_source(find_source(given.model), torch.float32, with_tokenizer=True)
    tasks = configurations(model, given.limit)
    begun = configurations(model, given.limit, tokenizer.bos_token)
    neurons = tn.score_neurons(model, measure.real_task(model, "present_past"), "random").top(
        fraction=FRACTION
    )
    rows = {}
    for condition, (bos, silenced) in CONDITIONS.items():
        with tn.deactivate(model, neurons) if silenced else nullcontext():
            ours, our_answers = answered(HarnessModel(model, bos=bos), tasks)
        with zeroed(hf, neurons) if silenced else nullcontext():
            theirs, their_answers = answered(
                HFLM(hf, tokenizer=tokenizer, batch_size=8, add_bos_token=False),
                begun if bos else tasks,
            )
        for name in ours:
            task = name.partition(":")[0]
            pairs = list(zip(our_answers[task], their_answers[task], strict=True))
            rows[f"{condition}, {name}"] = {
                "HFLM": theirs[name], "ours": ours[name], "answers": len(pairs),
                "same texts": sum(a == b for a, b in pairs) if task == "answers" else None,
                "largest gap, nats":
                    None if task == "answers" else max(abs(a - b) for a, b in pairs),
            }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def main(argv: Sequence[str] | None = None) -> None:
    """Compare and print a table; write it to the results."""
    parser = measure.parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="one with Llama's names of weights")
    parser.add_argument("--limit", type=int, default=32)
    given = measure.parse(parser, argv, model="mini-llama", limit=4)
    os.environ["DISABLE_MULTIPROC"] = "1"  # the harness's pool would fork a loaded model
    table = measure.apart(compare, given)
    texts, gap = table["same texts"].notna(), table["largest gap, nats"].max()
    targets = [
        Target("largest gap of a log-likelihood, nats", gap, MOST_NATS),
        Target(
            "share of generated texts that are the same",
            table.loc[texts, "same texts"].sum() / table.loc[texts, "answers"].sum(), 1.0,
            at_least=True,
        ),
    ]  # fmt: skip
    measure.write(measure.result_name("harness"), given, table, targets)


if __name__ == "__main__":
    main()
