"""The card on the Hugging Face hub: what sets, scores and deltas are, and how to load them."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tl_taskneurons import __version__
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.training.deltas import Delta, NeuronDelta

Item = NeuronSet | NeuronScores | Delta

_TAGS = ["tl-taskneurons", "transformer-lens", "mechanistic-interpretability", "neurons"]
_MARKUP = re.compile(r"[|`\[\]!*]")  # what Markdown would obey in a cell or a list
_USE = {
    NeuronSet: "with tn.deactivate(model, {it}):\n    print(tn.evaluate(model, tasks))",
    NeuronScores: "neurons = {it}.top(fraction=0.01)",
    Delta: "with {it}.applied(model):\n    print(tn.evaluate(model, tasks))",
}


@dataclass(frozen=True)
class Facts:
    """What a card says beside what the items say of themselves.

    Attributes:
        base_model: hub id of the model, or any name that ``load_model`` takes.
        results: numbers to show, e.g. of ``evaluate`` or ``deactivation_table``.
        licence: a licence's identifier, e.g. ``"mit"``; empty leaves it to the reader to ask.
    """

    base_model: str = ""
    results: pd.DataFrame | None = None
    licence: str = ""


def card(repo: str, files: Mapping[str, Item], facts: Facts) -> str:
    """Write a README in Markdown, with the metadata that the hub reads.

    Args:
        repo: the repository's id.
        files: the items by file name.
        facts: what else is known.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        library_name="tl-taskneurons", tags=_TAGS, base_model=facts.base_model or None,
        license=facts.licence or None,
    )  # fmt: skip
    first = next(iter(files.values()))
    model = facts.base_model or str(first.info.get("model", ""))
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {repo.rsplit('/', 1)[-1]}",
        f"MLP neurons of {_span(model) if model else 'a language model'}, written by "
        f"tl-taskneurons {__version__}. The model's fingerprint is {_span(first.fingerprint)} "
        "(layers x neurons per layer, digests of its weights); no other model is accepted.",
        "## Files",
        _table(("file", "what it is", "task"), [_row(*pair) for pair in files.items()]),
        "## How they were made",
        *(_made(name, item) for name, item in files.items()),
        "## Numbers",
        _numbers(facts.results),
        "## How to load",
        _loading(repo, files, model),
        "## Licence",
        f"`{facts.licence}`" if facts.licence else "The authors have named none; ask them.",
    ]
    return "\n\n".join(parts) + "\n"


def _row(file: str, item: Item) -> Sequence[Any]:
    if isinstance(item, NeuronSet):
        what = f"{len(item):,} of {item.mask.numel():,} neurons ({item.fraction:.2%})"
    elif isinstance(item, NeuronScores):
        what = f"{item.method} scores of {item.values.numel():,} neurons"
    else:
        of = f" of {len(item.neurons):,} neurons" if isinstance(item, NeuronDelta) else ""
        what = f"{item.n_parameters:,} trained weights{of} ({type(item).__name__})"
    tasks = item.info.get("tasks") or [item.info.get("task", "")]
    return file, what, ", ".join(map(str, tasks))


def _made(file: str, item: Item) -> str:
    known = {key: value for key, value in item.info.items() if value not in (None, "", [], {})}
    lines = [f"- {key}: {_cell(value)}" for key, value in known.items()]
    return "\n".join([f"`{file}`", "", *(lines or ["- nothing is noted"])])


def _numbers(results: pd.DataFrame | None) -> str:
    if results is None or results.empty:
        return "None were given. Check them on the test split of a task before you rely on them."
    return _table(list(map(str, results.columns)), results.itertuples(index=False))


def _loading(repo: str, files: Mapping[str, Item], model: str) -> str:
    several = len(files) > 1
    file, item = next(iter(files.items()))
    name = f", {_literal(file.removesuffix('.safetensors'))}" if several else ""
    kind = next(kind for kind in _USE if isinstance(item, kind))
    it = {NeuronSet: "neurons", NeuronScores: "scores", Delta: "delta"}[kind]
    return (
        "```python\nimport tl_taskneurons as tn\n\n"
        f"model = tn.load_model({_literal(model or 'THE MODEL')})\n"
        f"{it} = tn.from_hub({_literal(repo)}{name})\n" + _USE[kind].format(it=it) + "\n```"
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split())).replace("<", "&lt;")


def _span(text: str) -> str:
    return f"`{' '.join(text.split()).replace('`', '')}`"


def _literal(text: str) -> str:
    """A text as Python code; names come from files that others made."""
    return json.dumps(text, ensure_ascii=False).replace("`", "\\x60")
