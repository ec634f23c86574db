"""What a model says before and after an intervention, side by side."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import pandas as pd
from torch import Tensor

from tl_taskneurons.models.forward import frozen
from tl_taskneurons.models.generation import eos_ids, generate
from tl_taskneurons.models.inputs import Data, read_inputs
from tl_taskneurons.models.positions import Positions
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.given import named_sets
from tl_taskneurons.neurons.interventions import deactivate
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import require_number
from tl_taskneurons.tasks.endings import ending_of
from tl_taskneurons.tasks.task import Task, one_task

PLAIN = "undisturbed"


def compare_generations(
    model: LanguageModel,
    task: Task,
    neurons: NeuronSet | Mapping[str, NeuronSet],
    *,
    data: Data = Data(split="test", limit=10),
    max_new_tokens: int = 32,
    ablation: str | Tensor = "zero",
    positions: Positions = "all",
) -> pd.DataFrame:
    """Generate answers undisturbed and with sets of neurons silenced.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        task: the task whose examples are answered.
        neurons: what to silence; several sets by name, each alone.
        data: split, prompt and limit; by default the first ten test examples.
        max_new_tokens: the longest answer, in tokens.
        ablation: ``"zero"`` or constants; see ``deactivate``.
        positions: see ``deactivate``.

    Returns:
        One row per example: ``input, target, undisturbed`` and a column for each set. An answer
        is cut where it ends.

    Raises:
        ValueError: for a set called like another column, neurons of another model, or examples
            that leave no room for an answer.
    """
    model_view = view(model)
    task = one_task(task)
    require_number("max_new_tokens", max_new_tokens, whole=True, least=1, optional=False)
    if isinstance(neurons, NeuronSet):
        neurons = {neurons.name or "silenced": neurons}
    neurons = named_sets(neurons)
    taken = sorted({"input", "target", PLAIN} & set(neurons))
    if taken:
        raise InputError(f"A set is called {taken[0]!r}, as a column is; rename it.")
    inputs = read_inputs(model_view, task, data, room=max_new_tokens)
    ending = ending_of(model_view.model.tokenizer, data.prompt, eos_ids(model_view.model))
    examples = [task.split(data.split)[item.index] for item in inputs.items]
    table = pd.DataFrame(
        {"input": [example.input for example in examples],
         "target": [task.answer(example) for example in examples]}
    )  # fmt: skip
    states: dict[str, AbstractContextManager[None]] = {PLAIN: nullcontext()}
    states |= {
        name: deactivate(model, chosen, ablation=ablation, positions=positions)
        for name, chosen in neurons.items()
    }
    for name, state in states.items():
        with frozen(model_view.model), state:
            ids = generate(
                model_view, [item.prompt for item in inputs.items], closes=ending.closes,
                max_new_tokens=max_new_tokens, token_budget=2 * inputs.token_budget,
                examples=[item.index for item in inputs.items],
            )  # fmt: skip
        table[name] = [ending.said(row) for row in ids]
    return table
