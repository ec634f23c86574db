"""Running a model on answer batches: frozen parameters, and logits only where answers are."""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tl_taskneurons.models.hooks import add_hook
from tl_taskneurons.models.positions import examples_of, places_of, running
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.runtime.cleanup import Undo, setting
from tl_taskneurons.runtime.errors import InputError, StateError
from tl_taskneurons.tasks.batches import Batch

T = TypeVar("T")
# What several contexts that are open have added, in their order.
Added = Mapping[object, T]
NOTHING: Added[Any] = MappingProxyType({})


@contextmanager
def frozen(model: LanguageModel) -> Iterator[None]:
    """Switch off dropout and every parameter's gradient; put both back afterwards.

    Also after an exception. ``.grad`` is never touched.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]

    def put_back() -> None:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, training in modes:
            module.training = training

    with Undo() as undo:
        undo.add(put_back)
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        if any(training for _, training in modes):
            model.eval()
        yield


def answer_logits(model_view: ModelView, batch: Batch) -> Float[Tensor, "answer_tokens vocab"]:
    """Return the logits that predict the answer tokens, and compute no others.

    Args:
        model_view: the model.
        batch: tokens on the model's device.
    """
    prepare(batch)
    rows, columns = batch.answer_at
    positions = (rows, columns - 1)
    with (
        as_loaded(),
        running(lambda: places_of(batch), examples_of(batch)),
        logits_only_at(model_view, positions),
    ):
        logits = run_without_cache(model_view, batch.tokens, batch.attention_mask)
    return logits.squeeze(0)


@contextmanager
def as_loaded() -> Iterator[None]:
    """Compute in the dtype that a model was loaded in, whatever autocast a script has open."""
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    with ExitStack() as stack:
        for kind in kinds:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


# Bridges that run in their dtype only while a cache is kept.
_need_a_cache: "weakref.WeakSet[LanguageModel]" = weakref.WeakSet()


def run_without_cache(
    model_view: ModelView, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "..."]:
    """Run the model on padded tokens and keep no keys and values, where the model allows it.

    In half precision some bridges (OLMo-2's) mix dtypes unless they keep a cache.
    """
    model = model_view.model
    kwargs = {"attention_mask": mask.long()}
    if not model_view.is_bridge:
        return model(tokens, **kwargs)
    if model not in _need_a_cache:
        try:
            return model(tokens, use_cache=False, **kwargs)
        except RuntimeError as error:
            mixed = "dtype" in str(error) or "scalar type" in str(error)
            if not mixed or model_view.dtype == torch.float32:
                raise
            _need_a_cache.add(model)
    return model(tokens, **kwargs)


# What open interventions need to know of a batch before it runs.
_PREPARING: ContextVar[Added[Callable[[Batch], None]]] = ContextVar("preparing", default=NOTHING)
_CHANGED: ContextVar[Added[None]] = ContextVar("changed", default=NOTHING)
# How many contexts that suspend interventions are open, one in the other.
_UNDISTURBED: ContextVar[int] = ContextVar("undisturbed", default=0)


@contextmanager
def adding(variable: ContextVar[Added[T]], value: T) -> Iterator[None]:
    """Add to what a context variable holds; contexts may close in any order."""
    own = object()

    def take_out() -> None:
        variable.set({key: held for key, held in variable.get().items() if key is not own})

    with Undo() as undo:
        undo.add(take_out)
        variable.set({**variable.get(), own: value})
        yield


@contextmanager
def preparing(look: Callable[[Batch], None]) -> Iterator[None]:
    """Call a function with each batch of ``answer_logits`` before it runs."""
    with adding(_PREPARING, look):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Suspend this library's interventions by hooks while the context is open."""
    with setting(_UNDISTURBED, _UNDISTURBED.get() + 1):
        yield


@contextmanager
def changed_weights() -> Iterator[None]:
    """Say that an intervention has changed the model's weights for a while."""
    with adding(_CHANGED, None):
        yield


def weights_are_changed() -> bool:
    """Whether an intervention has changed weights, so that there is no undisturbed model."""
    return bool(_CHANGED.get())


def is_undisturbed() -> bool:
    """Whether interventions by hooks are suspended."""
    return _UNDISTURBED.get() > 0


def in_runs_asked_for(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook that passes by the runs by which open interventions prepare for a batch.

    These begin inside ``answer_logits``, where the hooks of what asked for the batch are attached
    already; they compute counterfactuals, of which nothing is to be captured or changed.
    """
    depth = _UNDISTURBED.get()

    def acting(*args: Any, **kwargs: Any) -> Any:
        return hook(*args, **kwargs) if _UNDISTURBED.get() == depth else None

    return acting


def is_prepared() -> bool:
    """Whether interventions look at batches before they run."""
    return bool(_PREPARING.get()) and not is_undisturbed()


def prepare(batch: Batch) -> None:
    """Let open interventions look at a batch, e.g. to run its counterfactuals first."""
    if not is_undisturbed():
        for look in _PREPARING.get().values():
            with undisturbed():
                look(batch)


@contextmanager
def logits_only_at(
    model_view: ModelView,
    positions: Bool[Tensor, "batch pos"] | tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
) -> Iterator[None]:
    """Make one forward pass return logits ``[1, n, vocab]`` of the given positions only.

    Positions are a mask, or rows and columns (which need no wait for a GPU).

    The unembedding gets only the rows it needs, which saves its cost and memory at all other
    positions, forwards and backwards. What comes after it (scaling, soft caps) works on any rows.

    Raises:
        RuntimeError: when the unembedding did not run exactly once.
    """
    runs: list[int] = []

    def keep(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        device = args[0].device
        if isinstance(positions, tuple):
            rows = args[0][positions[0].to(device), positions[1].to(device)]
        else:
            rows = args[0][positions.to(device)]
        runs.append(len(rows))
        return (rows.unsqueeze(0), *args[1:])

    unembed = model_view.model.unembed
    with Undo() as undo:
        add_hook(undo, unembed, partial(unembed.register_forward_pre_hook, keep))
        yield
    if len(runs) != 1:
        raise StateError(
            f"The unembedding of {model_view.name} ran {len(runs)} times in one forward pass, "
            "expected once; this architecture is not supported."
        )


def before(mask: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Shift a mask one position to the left: from tokens to the places that predict them."""
    return torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)


def answer_log_probs(
    model_view: ModelView, batch: Batch
) -> tuple[Float[Tensor, " answer_tokens"], Int[Tensor, " answer_tokens"]]:
    """Return each answer token's log-probability in nats (float32) and the row it belongs to."""
    logits = answer_logits(model_view, batch).float()
    targets = batch.tokens[batch.answer_at].to(logits.device)
    rows = batch.answer_at[0].to(logits.device)
    log_probs = logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(dim=1)
    return log_probs, rows


def answer_losses(model_view: ModelView, batch: Batch) -> Float[Tensor, " batch"]:
    """Return each example's loss: the mean cross-entropy of its answer tokens, in nats.

    Raises:
        ValueError: when a loss is NaN or infinite; the message names the example.
    """
    log_probs, rows = answer_log_probs(model_view, batch)
    losses = _row_means(-log_probs, rows, len(batch.index))
    require_finite(losses, batch, model_view)
    return losses


def require_finite(losses: Float[Tensor, " batch"], batch: Batch, model_view: ModelView) -> None:
    """Raise ValueError naming the first example whose loss is not a finite number."""
    bad = (~losses.detach().isfinite()).nonzero().flatten().tolist()
    if bad:
        raise InputError(
            f"The loss of example {batch.index[bad[0]]} is {losses[bad[0]].item()} in "
            f"{model_view.name} ({model_view.dtype}): the model's weights or activations overflow. "
            "Check the weights, or use float32 or bfloat16 instead of float16."
        )


def _row_means(
    values: Float[Tensor, " n"], rows: Int[Tensor, " n"], n_rows: int
) -> Float[Tensor, " rows"]:
    zeros = torch.zeros(n_rows, dtype=values.dtype, device=values.device)
    counts = zeros.index_add(0, rows, torch.ones_like(values))
    return zeros.index_add(0, rows, values) / counts
