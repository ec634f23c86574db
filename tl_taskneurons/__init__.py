"""Find the MLP neurons of a language model that carry a task, and test what they do.

A plugin for TransformerLens: every function takes a ``HookedTransformer`` or a
``TransformerBridge``. It implements Leng & Xiong, COLING 2025 (arXiv 2407.06488), and goes beyond
it.
"""

from tl_taskneurons.attribution import METHODS, activation_mean, score_items, score_neurons
from tl_taskneurons.evaluation import (
    Condition,
    conditions,
    deactivation_items,
    evaluate,
    evaluate_condition,
    evaluate_items,
)
from tl_taskneurons.faithfulness import Faithfulness, faithfulness
from tl_taskneurons.interventions import deactivate, mean_ablate, patch, scale
from tl_taskneurons.loading import load_model
from tl_taskneurons.model import ModelView, view
from tl_taskneurons.neurons import NeuronScores, NeuronSet, common, exclusive
from tl_taskneurons.prompts import Prompt
from tl_taskneurons.selection import SELECTIONS, select
from tl_taskneurons.summaries import deactivation_matrix, deactivation_table, diagonal_wins
from tl_taskneurons.task_sources import load_tasks, task_from_dicts
from tl_taskneurons.tasks import Example, Task, Tasks

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "SELECTIONS",
    "Condition",
    "Example",
    "Faithfulness",
    "ModelView",
    "NeuronScores",
    "NeuronSet",
    "Prompt",
    "Task",
    "Tasks",
    "activation_mean",
    "common",
    "conditions",
    "deactivate",
    "deactivation_items",
    "deactivation_matrix",
    "deactivation_table",
    "diagonal_wins",
    "evaluate",
    "evaluate_condition",
    "evaluate_items",
    "exclusive",
    "faithfulness",
    "load_model",
    "load_tasks",
    "mean_ablate",
    "patch",
    "scale",
    "score_items",
    "score_neurons",
    "select",
    "task_from_dicts",
    "view",
]
