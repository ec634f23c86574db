"""The public names and where they live, for type checkers and for the package itself."""

from . import plots as plots
from .analysis.curves import AblationCurves as AblationCurves
from .analysis.curves import ablation_curves as ablation_curves
from .analysis.explain import explain_neuron as explain_neuron
from .analysis.explain import explain_neurons as explain_neurons
from .analysis.explanation import NeuronExplanation as NeuronExplanation
from .analysis.faithfulness import Faithfulness as Faithfulness
from .analysis.faithfulness import faithfulness as faithfulness
from .analysis.generations import compare_generations as compare_generations
from .analysis.overlap import (
    group_overlap as group_overlap,
)
from .analysis.overlap import (
    overlap as overlap,
)
from .analysis.overlap import (
    overlap_by_fraction as overlap_by_fraction,
)
from .analysis.overlap import (
    overlap_matrix as overlap_matrix,
)
from .analysis.probe import Question as Question
from .analysis.reliability import selection_reliability as selection_reliability
from .analysis.search import FoundNeurons as FoundNeurons
from .analysis.search import Limits as Limits
from .analysis.search import find_neurons as find_neurons
from .analysis.similarity import (
    READINGS as READINGS,
)
from .analysis.similarity import (
    similarity_over_models as similarity_over_models,
)
from .analysis.similarity import (
    weight_similarity as weight_similarity,
)
from .analysis.similarity_tables import (
    similarity_by_layer as similarity_by_layer,
)
from .analysis.similarity_tables import (
    similarity_transfer as similarity_transfer,
)
from .continual import (
    ORDERS as ORDERS,
)
from .continual import (
    SequenceResult as SequenceResult,
)
from .continual import (
    run_sequence as run_sequence,
)
from .evaluation.deactivation import (
    Condition as Condition,
)
from .evaluation.deactivation import (
    conditions as conditions,
)
from .evaluation.deactivation import (
    deactivation_items as deactivation_items,
)
from .evaluation.deactivation import (
    evaluate_condition as evaluate_condition,
)
from .evaluation.evaluate import evaluate as evaluate
from .evaluation.evaluate import evaluate_items as evaluate_items
from .evaluation.harness import lm_eval as lm_eval
from .evaluation.tables import (
    deactivation_matrix as deactivation_matrix,
)
from .evaluation.tables import (
    deactivation_table as deactivation_table,
)
from .evaluation.tables import (
    diagonal_wins as diagonal_wins,
)
from .loading.checks import check_model as check_model
from .loading.models import load_model as load_model
from .loading.tasks import load_tasks as load_tasks
from .loading.tasks import task_from_dicts as task_from_dicts
from .models.checkpointing import gradient_checkpointing as gradient_checkpointing
from .models.protocol import LanguageModel as LanguageModel
from .models.view import ModelView as ModelView
from .models.view import view as view
from .neurons.attribution import (
    activation_mean as activation_mean,
)
from .neurons.attribution import (
    score_items as score_items,
)
from .neurons.attribution import (
    score_neurons as score_neurons,
)
from .neurons.attribution import (
    score_tasks as score_tasks,
)
from .neurons.interventions import (
    deactivate as deactivate,
)
from .neurons.interventions import (
    mean_ablate as mean_ablate,
)
from .neurons.interventions import (
    patch as patch,
)
from .neurons.interventions import (
    scale as scale,
)
from .neurons.lists import read_neurons as read_neurons
from .neurons.lists import write_neurons as write_neurons
from .neurons.methods import ABLATIONS as ABLATIONS
from .neurons.methods import METHODS as METHODS
from .neurons.methods import SELECTIONS as SELECTIONS
from .neurons.metrics import METRICS as METRICS
from .neurons.scores import NeuronScores as NeuronScores
from .neurons.selection import (
    layer_table as layer_table,
)
from .neurons.selection import (
    select as select,
)
from .neurons.sets import NeuronSet as NeuronSet
from .neurons.sets import common as common
from .neurons.sets import exclusive as exclusive
from .report.hub import from_hub as from_hub
from .report.hub import push_to_hub as push_to_hub
from .report.page import write_report as write_report
from .runtime.sharing import share_work as share_work
from .tasks.prompts import Prompt as Prompt
from .tasks.example import Example as Example
from .tasks.task import Task as Task
from .tasks.task import Tasks as Tasks
from .training.comparisons import (
    TRAINERS as TRAINERS,
)
from .training.comparisons import (
    finetune_all as finetune_all,
)
from .training.comparisons import (
    finetune_lora as finetune_lora,
)
from .training.comparisons import (
    finetune_random as finetune_random,
)
from .training.comparisons import (
    finetune_top as finetune_top,
)
from .training.deltas import Delta as Delta
from .training.deltas import LoraDelta as LoraDelta
from .training.deltas import NeuronDelta as NeuronDelta
from .training.deltas import WeightDelta as WeightDelta
from .training.deltas import load_delta as load_delta
from .training.finetune import finetune as finetune
from .training.settings import Training as Training

__version__: str
