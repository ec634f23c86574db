"""Skill neurons: how well a neuron's activation alone tells an example's class.

Wang et al. 2022 (arXiv 2211.07349) compare a neuron's activation with its mean over the training
examples. Being above it speaks for one class, or against it, and how often that is right is the
neuron's predictivity. Their activations are those at soft prompts that were trained for the task;
here they are those at the last token of the prompt, where the answer is predicted.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.models.view import ModelView
from tl_taskneurons.neurons.capture import BatchPass
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.roles import Role
from tl_taskneurons.tasks.prompts import Item

# Runs something on every batch of this process's share.
Each = Callable[[Callable[[BatchPass], None]], None]


def predictivity(
    model_view: ModelView, items: Sequence[Item], each: Each, team: Role
) -> Float[Tensor, "layer d_mlp"]:
    """Return how often a threshold on each neuron's activation tells the classes apart.

    Classes are the answers. Of several, each is told from the rest and the best told counts. Both
    sides weigh the same, however many examples they have, so chance is 0.5 and 1 is the most.

    Args:
        model_view: the model.
        items: all examples.
        each: runs something on every batch.
        team: the processes.

    Raises:
        ValueError: where answers are no classes.
    """
    classes = _classes(items)
    sums = torch.zeros(model_view.shape, device=model_view.device, dtype=torch.float32)
    above = sums.new_zeros(len(classes), *model_view.shape)

    def add_up(run: BatchPass) -> None:
        found = _read(run)
        sums.add_(found.sum(0))

    each(add_up)
    mean = team.total(sums) / len(items)

    def compare(run: BatchPass) -> None:
        fires = (_read(run) > mean).float()
        rows = [classes.index(item.answer) for item in run.batch.items]
        above.index_add_(0, torch.tensor(rows, device=above.device), fires)

    each(compare)
    above = team.total(above).cpu()
    answers = [item.answer for item in items]
    sizes = [answers.count(name) for name in classes]
    counts = torch.tensor(sizes, dtype=torch.float32, device="cpu")[:, None, None]
    own, rest = above / counts, (above.sum(0) - above) / (len(items) - counts)
    return (0.5 + (own - rest).abs() / 2).amax(0)


def _classes(items: Sequence[Item]) -> list[tuple[int, ...]]:
    answers = [item.answer for item in items]
    classes = sorted(set(answers))
    if len(classes) < 2 or len(answers) < 2 * len(classes):
        raise InputError(
            f"Method 'skill' tells classes apart, and {len(answers)} examples have {len(classes)} "
            "different answers: it needs at least two, each given twice on average, as in tasks "
            "with labels. Take more examples (limit), or use 'grad_act' for other tasks."
        )
    return classes


def _read(run: BatchPass) -> Float[Tensor, "batch layer d_mlp"]:
    """Return each example's activations, the mean over the positions that are asked for."""
    n_layers, d_mlp = run.model_view.shape
    found = torch.zeros(
        len(run.batch.index), n_layers, d_mlp, device=run.model_view.device, dtype=torch.float32
    )

    def see(layer: int, activation: Tensor) -> None:
        real = run.real.to(activation.device)
        found[:, layer] = ((activation.float() * real).sum(1) / real.sum(1)).to(found.device)

    run.watch(see)
    return found
