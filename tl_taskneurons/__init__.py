"""Find the MLP neurons of a language model that carry a task, and test what they do.

A plugin for TransformerLens: every function takes a ``HookedTransformer`` or a
``TransformerBridge``. It implements Leng & Xiong, COLING 2025 (arXiv 2407.06488), and goes beyond
it.
"""

from tl_taskneurons.attribution import (
    METHODS,
    activation_mean,
    score_items,
    score_neurons,
    score_tasks,
)
from tl_taskneurons.comparisons import (
    TRAINERS,
    finetune_all,
    finetune_lora,
    finetune_random,
    finetune_top,
)
from tl_taskneurons.continual import ORDERS, SequenceResult, run_sequence
from tl_taskneurons.deltas import NeuronDelta
from tl_taskneurons.evaluation import (
    Condition,
    conditions,
    deactivation_items,
    evaluate,
    evaluate_condition,
    evaluate_items,
)
from tl_taskneurons.explain import explain_neuron, explain_neurons
from tl_taskneurons.explanation import NeuronExplanation
from tl_taskneurons.faithfulness import Faithfulness, faithfulness
from tl_taskneurons.html import write_report
from tl_taskneurons.interventions import deactivate, mean_ablate, patch, scale
from tl_taskneurons.loading import load_model
from tl_taskneurons.model import ModelView, view
from tl_taskneurons.neurons import NeuronScores, NeuronSet, common, exclusive
from tl_taskneurons.overlap import group_overlap, overlap, overlap_by_fraction, overlap_matrix
from tl_taskneurons.prompts import Prompt
from tl_taskneurons.recompute import gradient_checkpointing
from tl_taskneurons.selection import SELECTIONS, layer_table, select
from tl_taskneurons.sharing import share_work
from tl_taskneurons.similarity import READINGS, similarity_over_models, weight_similarity
from tl_taskneurons.similarity_tables import similarity_by_layer, similarity_transfer
from tl_taskneurons.summaries import deactivation_matrix, deactivation_table, diagonal_wins
from tl_taskneurons.task_sources import load_tasks, task_from_dicts
from tl_taskneurons.tasks import Example, Task, Tasks
from tl_taskneurons.training import finetune
from tl_taskneurons.training_settings import Training

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "ORDERS",
    "READINGS",
    "SELECTIONS",
    "TRAINERS",
    "Condition",
    "Example",
    "Faithfulness",
    "ModelView",
    "NeuronDelta",
    "NeuronExplanation",
    "NeuronScores",
    "NeuronSet",
    "Prompt",
    "SequenceResult",
    "Task",
    "Tasks",
    "Training",
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
    "explain_neuron",
    "explain_neurons",
    "faithfulness",
    "finetune",
    "finetune_all",
    "finetune_lora",
    "finetune_random",
    "finetune_top",
    "gradient_checkpointing",
    "group_overlap",
    "layer_table",
    "load_model",
    "load_tasks",
    "mean_ablate",
    "overlap",
    "overlap_by_fraction",
    "overlap_matrix",
    "patch",
    "run_sequence",
    "scale",
    "score_items",
    "score_neurons",
    "score_tasks",
    "select",
    "share_work",
    "similarity_by_layer",
    "similarity_over_models",
    "similarity_transfer",
    "task_from_dicts",
    "view",
    "weight_similarity",
    "write_report",
]
