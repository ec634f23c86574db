"""Does a score predict what silencing does? A score compared with ablation, neuron and set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import pandas as pd
import torch

from tl_taskneurons.models.forward import answer_logits, frozen
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.attribution import prepared_batches, score_neurons
from tl_taskneurons.neurons.interventions import deactivate
from tl_taskneurons.neurons.measures import measured
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.scoring import layers_of, score_batches
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.neurons.settings import ScoreOptions, ScoreSettings
from tl_taskneurons.runtime.errors import InputError, InputTypeError
from tl_taskneurons.runtime.options import require_number, settled
from tl_taskneurons.tasks.task import OneTask, Task, one_task


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """A score against exact ablation.

    Attributes:
        neurons: one row per sampled neuron: ``layer, neuron, score, exact, sample`` (``"top"``
            or ``"random"``). ``exact`` is the mean over examples of |metric when silenced -
            metric|; of the loss, in nats.
        sets: one row per silenced set: ``fraction, n_neurons, predicted, sum_of_scores, true``.
            ``predicted`` is the signed first-order change of the metric (NaN where it has no
            gradient), ``true`` the measured one; of the loss, in nats.
        summary: one row: ``method, task, n, spearman, pearson, slope, top_overlap``; the overlap
            (intersection over union) is that of the top tenth of the sample by score and by
            exact effect.
    """

    neurons: pd.DataFrame
    sets: pd.DataFrame
    summary: pd.DataFrame

    def __str__(self) -> str:
        parts = (self.summary, self.sets)
        return "\n\n".join(part.round(4).to_string(index=False) for part in parts)


def faithfulness(
    model: LanguageModel,
    task: OneTask,
    method: str = "grad_act",
    *,
    n_random: int = 60,
    n_top: int = 40,
    fractions: Sequence[float] = (0.001, 0.01, 0.05, 0.10),
    progress: bool | None = None,
    **options: Unpack[ScoreOptions],
) -> Faithfulness:
    """Compare a method's scores with what silencing really does, and print the result with str.

    Single neurons: a random sample and the top of the score are ablated one by one. Sets: the
    top fractions are silenced together, which first order cannot foresee where neurons interact.

    Args:
        model: a HookedTransformer or TransformerBridge.
        task: the task.
        method: any of ``METHODS`` but ``"exact"``.
        n_random: neurons drawn at random from those not in the top sample.
        n_top: neurons with the highest scores.
        fractions: sizes of the silenced sets, as shares of all neurons.
        progress: show progress bars; by default after two seconds (see ``Progress``).
        **options: as ``score_neurons``: ``metric``, ``ablation``, ``positions``, ...; here
            ``limit=16``, as each neuron costs a forward pass over the examples, and ``seed`` draws
            the random sample too. With ``layers`` the sample is of these alone.

    Raises:
        ValueError: for ``"exact"``, an unknown method, or a sample of fewer than 10 neurons or
            more than there are in the layers.
    """
    task = one_task(task)
    if method == "exact":
        raise InputError("faithfulness compares a method with 'exact'; choose another method.")
    for name, number in {"n_random": n_random, "n_top": n_top}.items():
        require_number(name, number, whole=True)
    if not isinstance(fractions, Sequence) or isinstance(fractions, str):
        raise InputTypeError(f"fractions is {fractions!r}; give a list, e.g. (0.01, 0.1).")
    model_view = view(model)
    settings: ScoreOptions = {"limit": 16, **options}
    asked = settled("faithfulness", ScoreSettings, settings)
    layers = layers_of(model_view, asked.layers)
    n_all = len(layers) * model_view.d_mlp
    room = "the model's" if asked.layers is None else f"those of the layers {layers}:"
    if min(n_random, n_top) < 0 or not 10 <= n_random + n_top <= n_all:
        raise InputError(
            f"The sample has n_random={n_random} + n_top={n_top} neurons; it needs at least 10 in "
            f"all and at most {room} {n_all}."
        )
    scores = score_neurons(model, task, method, progress=progress, **settings)
    top = scores.top(n=n_top)
    generator = torch.Generator().manual_seed(asked.seed)
    lottery = torch.rand(
        model_view.shape, generator=generator, dtype=torch.float32, device="cpu"
    ).masked_fill(top.mask, -1.0)
    lottery[[layer for layer in range(model_view.n_layers) if layer not in layers]] = -1.0
    drawn = NeuronScores(lottery, scores.fingerprint).top(n=n_random)
    sample = (top | drawn).rename(f"sample for {task.name}")
    settings.pop("layers", None)  # 'exact' has those of the sample
    exact = score_neurons(model, task, "exact", neurons=sample, progress=progress, **settings)
    frame = sample.to_frame()
    frame["score"] = scores.values[sample.mask].numpy()
    frame["exact"] = exact.values[sample.mask].numpy()
    frame["sample"] = ["top" if here else "random" for here in top.mask[sample.mask].tolist()]
    sets = _silence_sets(model, task, scores, fractions, asked)
    return Faithfulness(frame, sets, _summary(frame, method, task.name))


def _silence_sets(
    model: LanguageModel,
    task: Task,
    scores: NeuronScores,
    fractions: Sequence[float],
    settings: ScoreSettings,
) -> pd.DataFrame:
    model_view, metric = view(model), settings.measure
    batches = [
        batch.to(model_view.device) for batch in prepared_batches(model_view, task, settings)
    ]
    ablation = settings.ablation
    if isinstance(ablation, str) and ablation == "mean":
        ablation = score_batches(model_view, batches, "activation_mean")
    with torch.no_grad(), frozen(model_view.model):
        references = [
            answer_logits(model_view, batch).float() if metric.reference else None
            for batch in batches
        ]

    def value() -> float:
        with torch.no_grad(), frozen(model_view.model):
            pairs = zip(batches, references, strict=True)
            return float(torch.cat([measured(metric, model_view, *each) for each in pairs]).mean())

    predicted = torch.full(model_view.shape, float("nan"), dtype=torch.float32, device="cpu")
    if metric.gradient and not metric.reference:
        signed = replace(settings, signed=True)
        predicted = score_batches(model_view, batches, "grad_act", settings=signed)
    plain = value()
    rows = []
    for fraction in fractions:
        neurons: NeuronSet = scores.top(fraction=fraction)
        with deactivate(model, neurons, ablation=ablation, positions=settings.positions):
            true = value() - plain
        rows.append(
            {"fraction": fraction, "n_neurons": len(neurons),
             "predicted": float(predicted[neurons.mask].sum()),
             "sum_of_scores": float(scores.values[neurons.mask].sum()), "true": true}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _summary(frame: pd.DataFrame, method: str, task: str) -> pd.DataFrame:
    score, exact = frame["score"], frame["exact"]
    n_tenth = max(1, round(len(frame) / 10))
    by_score = set(score.nlargest(n_tenth).index)
    by_exact = set(exact.nlargest(n_tenth).index)
    constant = score.nunique() < 2 or exact.nunique() < 2
    spread = float((score**2).sum())
    return pd.DataFrame(
        [{"method": method, "task": task, "n": len(frame),
          "spearman": float("nan") if constant else float(score.corr(exact, "spearman")),
          "pearson": float("nan") if constant else float(score.corr(exact, "pearson")),
          "slope": float((score * exact).sum()) / spread if spread else float("nan"),
          "top_overlap": len(by_score & by_exact) / len(by_score | by_exact)}]
    )  # fmt: skip
