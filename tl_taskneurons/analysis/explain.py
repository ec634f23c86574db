"""What one neuron does in a task: the texts it answers to, and the tokens it writes."""

import operator
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix
from typing import Any, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_taskneurons.analysis.explanation import ExplainedExample, NeuronExplanation
from tl_taskneurons.analysis.lens import token_effects, token_texts
from tl_taskneurons.models.forward import frozen
from tl_taskneurons.models.inputs import Data, DataOptions, read_inputs
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView, view
from tl_taskneurons.neurons.capture import backward
from tl_taskneurons.neurons.given import Neurons, neuron_set
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import require_number, settled
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.tasks.batches import Batch
from tl_taskneurons.tasks.prompts import Item, encode
from tl_taskneurons.tasks.task import OneTask, Task, one_task


def explain_neuron(
    model: LanguageModel,
    neuron: tuple[int, int] | Int[Tensor, "2"],
    task: OneTask,
    **options: Any,
) -> NeuronExplanation:
    """Show what one neuron does in a task; see ``explain_neurons`` for the options.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        neuron: ``(layer, j)``.
        task: the task.
        options: of ``explain_neurons``.
    """
    one = neuron.unsqueeze(0) if isinstance(neuron, Tensor) else [neuron]
    return explain_neurons(model, one, task, **options)[0]


@torch.inference_mode(False)  # gradients, also when the caller is in inference mode
def explain_neurons(
    model: LanguageModel,
    neurons: Neurons | Int[Tensor, "neuron 2"],
    task: OneTask,
    *,
    n_examples: int = 5,
    n_tokens: int = 10,
    by: str = "activation",
    progress: bool | None = None,
    **options: Unpack[DataOptions],
) -> list[NeuronExplanation]:
    """Show what some neurons do in a task, with one forward and backward pass for all of them.

    Only these neurons' columns are kept, and only for the top examples. Examples are ranked on
    their own tokens: instruction and demonstrations are the same in all of them.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        neurons: ``(layer, j)`` pairs, as ``[(0, 3)]`` or ``mask.nonzero()``, or a set.
        task: the task.
        n_examples: how many top examples to keep.
        n_tokens: how many promoted and suppressed tokens to name.
        by: rank examples by the largest ``"activation"`` in magnitude at their own tokens (gated
            neurons have both signs), or by ``"relevance"``: |sum of gradient * activation|.
        progress: show a progress bar; by default after two seconds (see ``Progress``).
        **options: ``split="train"``, ``limit=64``, ``prompt`` and ``token_budget``; see ``Data``.

    Returns:
        One explanation for each neuron, in the given order.

    Raises:
        ValueError: for no neurons, one outside the model, a model without tokenizer, an empty
            split, an unknown ranking, or a number below 1.
        TypeError: for what is no pair of whole numbers.
    """
    if by not in ("activation", "relevance"):
        raise InputError(f"by is {by!r}; use 'activation' or 'relevance'.")
    require_number("n_examples", n_examples, whole=True, least=1)
    require_number("n_tokens", n_tokens, whole=True, least=1)
    model_view, task = view(model), one_task(task)
    given = _listed(neurons)
    chosen = neuron_set(model_view, given)
    # In the order they were given, and as keys: a tensor's numbers are none.
    pairs = [(operator.index(layer), operator.index(j)) for layer, j in given]
    if not pairs:
        raise InputError("There are no neurons to explain; give at least one (layer, j) pair.")
    tokenizer = getattr(model_view.model, "tokenizer", None)
    data = settled("explain_neurons", Data, {"limit": 64, **options})
    inputs = read_inputs(model_view, task, data)
    effects = token_effects(model, pairs, n_tokens=n_tokens)
    watch = _Watch(
        model_view, chosen.layers(), inputs.items,
        _own_starts(inputs.items, task, tokenizer, data), by, n_examples,
    )  # fmt: skip
    batches = list(inputs.batches())
    with frozen(model_view.model):
        for batch in Progress(f"explain {task.name}", shown=progress).over(batches):
            watch.add(batch)
    return [
        NeuronExplanation(
            model=model_view.name, neuron=(layer, j), task=task.name, split=data.split,
            n_seen=len(inputs.items), score=watch.totals[layer, j] / len(inputs.items), by=by,
            examples=watch.examples((layer, j), tokenizer), effects=shown,
        )
        for (layer, j), shown in zip(pairs, effects, strict=True)
    ]  # fmt: skip


def _listed(neurons: Any) -> Any:
    """Return neurons so that they can be read twice, a tensor's as pairs of numbers."""
    if isinstance(neurons, Tensor) and neurons.ndim == 2:
        return [tuple(pair) for pair in neurons.tolist()]
    return list(neurons) if isinstance(neurons, Iterator) else neurons


@dataclass(frozen=True)
class _Found:
    """An example that a neuron answers to; ``order`` is minus what it is ranked by."""

    order: float
    index: int
    activations: tuple[float, ...]
    relevances: tuple[float, ...]


class _Watch:
    """Keeps some neurons' top examples and summed scores while batches pass."""

    def __init__(
        self,
        model_view: ModelView,
        columns: dict[int, Tensor],
        items: Sequence[Item],
        own: Sequence[int],
        by: str,
        n_examples: int,
    ) -> None:
        self.model_view, self.columns, self.items, self.own = model_view, columns, items, own
        self.by, self.n_examples = by, n_examples
        self.totals: dict[tuple[int, int], float] = defaultdict(float)
        self.best: dict[tuple[int, int], list[_Found]] = defaultdict(list)
        self.texts: dict[int, tuple[str, ...]] = {}

    def add(self, batch: Batch) -> None:
        """Run a batch and take in what the neurons did."""
        captured: dict[int, tuple[Tensor, Tensor]] = {}

        def reduce(layer: int, gradient: Tensor, activation: Tensor) -> None:
            if layer in self.columns:
                columns = self.columns[layer].to(activation.device)
                kept = activation[..., columns].float()
                relevance = kept * gradient[..., columns].float()
                captured[layer] = (kept.cpu(), relevance.cpu())

        backward(
            self.model_view, batch.to(self.model_view.device), reduce, lowest=min(self.columns)
        )
        for layer, (activations, relevances) in captured.items():
            self._rank(layer, batch, activations, relevances)

    def _rank(
        self,
        layer: int,
        batch: Batch,
        activations: Float[Tensor, "batch pos neuron"],
        relevances: Float[Tensor, "batch pos neuron"],
    ) -> None:
        sums = relevances.sum(1).abs()
        highest = sums
        if self.by == "activation":
            places = torch.arange(activations.shape[1], device="cpu")
            own = places >= torch.tensor([self.own[i] for i in batch.index], device="cpu")[:, None]
            counted = (own & batch.attention_mask).unsqueeze(-1)
            highest = (activations.abs() * counted).amax(1)
        for column, j in enumerate(self.columns[layer].tolist()):
            self.totals[layer, j] += float(sums[:, column].sum())
            ranked = sorted(
                zip((-highest[:, column]).tolist(), batch.index, range(len(sums)), strict=True)
            )
            found = [
                _Found(
                    order, index,
                    tuple(activations[row, : len(self.items[index]), column].tolist()),
                    tuple(relevances[row, : len(self.items[index]), column].tolist()),
                )
                for order, index, row in ranked[: self.n_examples]
            ]  # fmt: skip
            best = sorted([*self.best[layer, j], *found], key=lambda one: (one.order, one.index))
            self.best[layer, j] = best[: self.n_examples]

    def examples(self, neuron: tuple[int, int], tokenizer: Any) -> tuple[ExplainedExample, ...]:
        """Return a neuron's top examples with their tokens as text."""
        shown = []
        for found in self.best[neuron]:
            item = self.items[found.index]
            if found.index not in self.texts:
                texts = token_texts(tokenizer, item.prompt + item.answer)
                self.texts[found.index] = tuple(texts)
            shown.append(
                ExplainedExample(
                    item.index, self.texts[found.index], self.own[found.index], len(item.prompt),
                    found.activations, found.relevances,
                )
            )  # fmt: skip
        return tuple(shown)


def _own_starts(items: Sequence[Item], task: Task, tokenizer: Any, data: Data) -> list[int]:
    """Return where each example itself begins, after all that it has in common with the others.

    That is the instruction and the demonstrations, and what opens every example ("Input:"): a
    neuron does the same there in all of them. At least 1, as the first token sees nothing else.
    """
    bare = replace(data.prompt, shots=0, instruction=False)
    alone = encode(task, tokenizer, split=data.split, prompt=bare, limit=data.limit).items
    starts = [max(1, len(item) - len(short) + 1) for item, short in zip(items, alone, strict=True)]
    if len(items) == 1:
        return starts
    own = [(item.prompt + item.answer)[start:] for item, start in zip(items, starts, strict=True)]
    opening = min(len(commonprefix(own)), min(map(len, own)) - 1)
    return [start + opening for start in starts]
