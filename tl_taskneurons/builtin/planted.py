r"""Models whose task neurons are known, because their weights are written by hand.

Each task has a cue word in its instruction, and every input holds one word that means ``yes`` or
``no``. The first attention layer averages the cue and that word into the last position; a planted
neuron of the task fires there when it sees its cue, and writes the answer. Nothing else in the
model can tell ``yes`` from ``no``, so the planted neurons are all the task has.

Distractors are other neurons with activations several times larger. They come in pairs that write
opposite vectors into a direction that no later weight reads, so that only the norms between a pair
feel them, by a thousandth. All directions are columns of one random orthogonal
matrix, so nothing is aligned with the axes of the residual stream.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tl_taskneurons.builtin.mini.lexicon import words
from tl_taskneurons.builtin.mini.tokens import build_tokenizer
from tl_taskneurons.builtin.planting import (
    NO,
    NULLS,
    YES,
    directions,
    distract,
    empty_model,
    plant,
    write_attention,
    write_embedding,
)  # fmt: skip
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import settled
from tl_taskneurons.tasks.task import Example, Task

_THINGS = words("morning garden river window street kitchen valley harbour meadow market")
_FOLK = words("Ada Bruno Cleo Dario Edda Fritz Greta Hans Ilse Jorg")


@dataclass(frozen=True)
class Planted:
    """A model with known task neurons.

    Attributes:
        model: Hugging Face model in float32, in eval mode (Llama if gated, else GPT-NeoX).
        tokenizer: Its tokenizer.
        tasks: The tasks, each with the labels ``yes`` and ``no``.
        truth: Task name to a boolean tensor [layer, d_mlp], True at the planted neurons.
        distractors: Boolean tensor [layer, d_mlp], True at the loud and useless neurons.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    tasks: tuple[Task, ...]
    truth: dict[str, Tensor]
    distractors: Tensor


@dataclass(frozen=True)
class Sizes:
    """How large a planted model and its tasks are.

    Attributes:
        n_layers: Layers of the model.
        d_mlp: Neurons of a layer.
        distractors: Loud and useless neurons, an even number; half of the pairs fire always, the
            others on one task's cue.
        n_train: Training items of a task.
        n_test: Test items of a task.
    """

    n_layers: int = 4
    d_mlp: int = 128
    distractors: int = 32
    n_train: int = 64
    n_test: int = 64


def planted_model(
    tasks: int | Sequence[str] = 4, neurons_per_task: int = 16, overlap: float = 0.0,
    noise: float = 0.0, gated: bool = True, seed: int = 0, **sizes: int,
) -> Planted:  # fmt: skip
    """Write a model by hand in which known neurons carry known tasks.

    Args:
        tasks: The tasks' names, or how many (then they are called planted_a, planted_b, ...).
        neurons_per_task: Planted neurons of each task, placed at random over all layers.
        overlap: Share of a task's neurons that are common to all tasks, 0 to 1 (rounded to whole
            neurons); two tasks' sets then have the intersection over union s / (2 n - s).
        noise: Gaussian noise on every weight matrix, with the standard deviation
            noise / sqrt(d_model); 1 is about the size of a usual random initialisation.
        gated: Llama with a gated SiLU MLP, or GPT-NeoX with a plain ReLU MLP, in which each
            neuron answers to one label only.
        seed: Of places, directions, noise and items.
        **sizes: ``n_layers``, ``d_mlp``, ``distractors``, ``n_train``, ``n_test``; see ``Sizes``.

    Returns:
        The model, its tokenizer, the tasks and the truth. It answers zero-shot prompts only:
        in longer ones the cue is averaged away.

    Raises:
        ValueError: If more neurons are asked for than there are, or an argument is out of range.
    """
    chosen = settled("planted_model", Sizes, sizes)
    n_layers, d_mlp, distractors = chosen.n_layers, chosen.d_mlp, chosen.distractors
    names = _task_names(tasks)
    least = 1 if gated else 2
    if neurons_per_task < least:
        raise InputError(f"neurons_per_task is {neurons_per_task}; it must be at least {least}")
    if not 0 <= overlap <= 1:
        raise InputError(f"overlap is {overlap}; it is a share and must lie in 0 to 1")
    if noise < 0:
        raise InputError(f"noise is {noise}; it must be 0 or more")
    if distractors < 0 or distractors % 2:
        raise InputError(f"distractors is {distractors}; it must be an even number, 0 or more")
    shared = round(overlap * neurons_per_task)
    wanted = shared + len(names) * (neurons_per_task - shared) + distractors
    if wanted > n_layers * d_mlp:
        raise InputError(
            f"{wanted} neurons were asked for ({len(names)} tasks of {neurons_per_task} with "
            f"{shared} shared, and {distractors} distractors), but the model has "
            f"{n_layers * d_mlp} ({n_layers} layers of {d_mlp}); ask for fewer or raise "
            "n_layers or d_mlp"
        )
    made_tasks = _tasks(names, chosen.n_train, chosen.n_test, seed)
    tokenizer = _tokenizer(made_tasks)
    generator = torch.Generator().manual_seed(seed)
    d_model = 16 * -(-max(64, 2 * len(names) + 8 + NULLS) // 16)
    axes = directions(len(names), d_model, generator)
    model = empty_model(len(tokenizer), d_model, n_layers, d_mlp, gated, tokenizer)
    write_embedding(model, tokenizer, made_tasks, axes)
    first = made_tasks[0]
    prompt = f"{first.instruction}\nInput: {(first.train + first.test)[0].input}\nOutput:"
    write_attention(model, axes, len(tokenizer(prompt)["input_ids"]))

    places = torch.randperm(n_layers * d_mlp, generator=generator, device="cpu")[:wanted].tolist()
    truth = {name: torch.zeros(n_layers, d_mlp, dtype=torch.bool, device="cpu") for name in names}
    for i in range(shared):
        plant(
            model, axes, divmod(places.pop(), d_mlp), range(len(names)), i, neurons_per_task, truth
        )
    for t in range(len(names)):
        for i in range(shared, neurons_per_task):
            plant(model, axes, divmod(places.pop(), d_mlp), [t], i, neurons_per_task, truth)
    loud = torch.zeros(n_layers, d_mlp, dtype=torch.bool, device="cpu")
    for pair in range(distractors // 2):
        for sign in (1.0, -1.0):
            layer, j = divmod(places.pop(), d_mlp)
            distract(model, axes, layer, j, pair, sign)
            loud[layer, j] = True
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2 and noise:
                bump = torch.randn(
                    parameter.shape, generator=generator, dtype=torch.float32, device="cpu"
                )
                parameter.add_(bump, alpha=noise / d_model**0.5)
    return Planted(model.eval(), tokenizer, made_tasks, truth, loud)


def precision_recall(found: Tensor, truth: Tensor) -> tuple[float, float]:
    """Return precision and recall of a found set against the truth.

    Args:
        found: Boolean tensor [layer, d_mlp] of found neurons.
        truth: Boolean tensor of the same shape.

    Raises:
        ValueError: If the shapes differ or one of the sets is empty.
    """
    if found.shape != truth.shape:
        raise InputError(f"found has the shape {tuple(found.shape)}, truth {tuple(truth.shape)}")
    if not found.any() or not truth.any():
        raise InputError("precision and recall need at least one found and one true neuron")
    both = int((found & truth).sum())
    return both / int(found.sum()), both / int(truth.sum())


def _task_names(tasks: int | Sequence[str]) -> tuple[str, ...]:
    if isinstance(tasks, int):
        names = tuple(f"planted_{_letters(i)}" for i in range(tasks))
    else:
        names = tuple(tasks)
    if not names:
        raise InputError(f"tasks is {tasks!r}; a planted model needs at least one task")
    if len(set(names)) < len(names):
        raise InputError(f"the task names {', '.join(names)} are not all different")
    return names


def _letters(i: int) -> str:
    return (_letters(i // 26 - 1) if i >= 26 else "") + chr(97 + i % 26)


def _tasks(names: Sequence[str], n_train: int, n_test: int, seed: int) -> tuple[Task, ...]:
    """Tasks that share words and differ in the cue; the labels take turns."""
    made = []
    for t, name in enumerate(names):
        rng = random.Random(f"planted/{seed}/{name}")
        sides = {}
        for label, meanings in (("yes", YES), ("no", NO)):
            items = [
                Example(f"{who} saw the {word} {thing}", label, label)
                for who, word, thing in itertools.product(_FOLK, meanings, _THINGS)
            ]
            rng.shuffle(items)
            sides[label] = items
        mixed = [item for pair in zip(sides["yes"], sides["no"], strict=True) for item in pair]
        if n_train < 0 or n_test < 0 or n_train + n_test > len(mixed):
            raise InputError(
                f"{n_train} training and {n_test} test items were asked for; "
                f"a planted task has {len(mixed)} in all"
            )
        train, test = mixed[:n_train], mixed[n_train : n_train + n_test]
        instruction = f"Cue{_letters(t).upper()}."
        made.append(
            Task(name, tuple(train), tuple(test), instruction, ("yes", "no"), family="planted")
        )
    return tuple(made)


def _tokenizer(tasks: Sequence[Task]) -> PreTrainedTokenizerFast:
    words = " ".join((*YES, *NO, *_THINGS, *_FOLK))
    heads = "\n".join(f"{task.instruction}\nInput: saw the\nOutput: yes no" for task in tasks)
    return build_tokenizer([words, heads])
