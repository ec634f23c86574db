"""Is what TransformerLens built what Hugging Face computes? Asked once per configuration.

A model's own weights are tried on a short input. What depends on the configuration alone (windows,
padding, caches) is tried on a small random model of it, which is quick however large the model is,
and remembered in the cache folder.
"""

import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from tl_taskneurons.loading.build import as_bridge, as_hooked
from tl_taskneurons.loading.huggingface import Source, brief
from tl_taskneurons.loading.remembered import recall, remember, structure_key
from tl_taskneurons.loading.small_copies import NoSmallCopyError, small_copy
from tl_taskneurons.models.agreement import (
    Gaps,
    Measure,
    all_gaps,
    gap,
    mean_gap,
    own_gaps,
    plain_gap,
    probe_rows,
    reference,
)
from tl_taskneurons.models.forward import as_loaded
from tl_taskneurons.models.kvcache import distrust_cache
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView, mark_checked, view
from tl_taskneurons.runtime.errors import InputError

# A wrong rotary base, a lost bias or a missing window moves log-probabilities by .1 to 6 nats;
# rounding in float32 moves them by less than 1e-4. In half precision the mean is compared.
AGREEMENT_NATS = {torch.float32: 1e-2, torch.float64: 1e-2}
_HALF_NATS = 0.25
# Small models are in float32, whatever the dtype of the user's.
_SMALL, _SMALL_NATS = "a small model of its configuration", 1e-2

_remembered: dict[str, Gaps] = {}


@as_loaded()
def check_model(model: LanguageModel, hf: Any = None) -> Gaps:
    """Compare a model of your own with what Hugging Face computes.

    ``load_model`` does this by itself. Use it for a bridge or HookedTransformer that you built.

    Args:
        model: a HookedTransformer or TransformerBridge.
        hf: the Hugging Face model it came from, with the same weights, not rewired by a bridge.
            Without it, a bridge is judged by a small random model of its configuration, and a
            HookedTransformer's padding and cache by its own plain runs.

    Returns:
        The gaps in nats. Where only the cache is wrong, a warning says so, and the library runs
        the model without it.

    Raises:
        ValueError: a gap of more than 0.01 nats (in half precision a mean gap of .25), other than
            the cache's; the message says how large, and where.
    """
    found = view(model)
    measure, limit = _tolerance(found.dtype)
    if hf is not None:
        rows = probe_rows(hf.config.vocab_size)
        gaps, told = all_gaps(found, rows, reference(hf, rows), measure), "its Hugging Face model"
    else:
        small = _small_gaps(found)
        limit = limit if small is None else _SMALL_NATS
        gaps = own_gaps(found, measure) if small is None else small
        told = "its own plain runs" if small is None else _SMALL
    _judge(found.model, found.name, gaps, told, limit)
    mark_checked(found.model)
    return gaps


def _small_gaps(found: ModelView) -> Gaps | None:
    if found.is_bridge:
        with suppress(NoSmallCopyError):
            return _structure(found.model.original_model, "bridge")
    return None


def _tolerance(dtype: torch.dtype) -> tuple[Measure, float]:
    """How the gaps of a model's own weights are measured, and how large they may be, in nats."""
    return (gap, AGREEMENT_NATS[dtype]) if dtype in AGREEMENT_NATS else (mean_gap, _HALF_NATS)


@dataclass(frozen=True)
class Original:
    """What a Hugging Face model computes, taken down before a bridge rewires it.

    Attributes:
        rows: a short input.
        expected: its log-probabilities; None where the model can't run it, or need not.
        key: what the outcome is remembered under; empty where it is not.
        agreed: these very weights were compared before, and agreed.
    """

    rows: list[list[int]]
    expected: list[Tensor] | None = None
    key: str = ""
    agreed: bool = False


@as_loaded()
def take_down(hf: Any, key: str = "") -> Original:
    """Run a Hugging Face model on a short input, unless that was done before.

    Args:
        hf: the model.
        key: from ``weights_key``.
    """
    if key and (recall(key) or {}).get("agreed") is True:
        return Original([], key=key, agreed=True)
    rows = probe_rows(getattr(hf.config, "vocab_size", None) or 2, lengths=(16,))
    try:
        return Original(rows, reference(hf, rows), key)
    except Exception:  # an encoder wants other inputs; `view` will refuse it by name
        return Original(rows)


@as_loaded()
def check_loaded(model: LanguageModel, hf: Any, original: Original, kind: str) -> None:
    """Compare a model that was just built with the one it came from.

    Args:
        model: of TransformerLens.
        hf: the Hugging Face model, rewired or not.
        original: what the Hugging Face model computed.
        kind: of the model.

    Raises:
        ValueError: it computes something else; the message names the gap and the cause.
    """
    name = str(getattr(model.cfg, "model_name", "") or type(hf).__name__)
    if not original.agreed:
        if original.expected is None or any(not v.isfinite().all() for v in original.expected):
            return
        _compare(model, name, hf, original, kind)
        if original.key:
            remember(original.key, {"agreed": True})
    try:
        view(model)
    except (ValueError, TypeError):
        return  # refused by name when it is used
    try:
        gaps = _structure(hf, kind)
    except NoSmallCopyError as error:
        warnings.warn(
            f"{name} ({type(hf).__name__}) was compared with Hugging Face on 16 tokens only, not "
            f"beyond a sliding window, in padded batches or with a key-value cache: {error}. "
            "check_model(model, hf) compares them on the model itself.",
            stacklevel=4,
        )
        mark_checked(model, but="windows, padding and cache")
        return
    _judge(model, name, gaps, _SMALL, _SMALL_NATS, kind)
    mark_checked(model)


def _compare(model: LanguageModel, name: str, hf: Any, original: Original, kind: str) -> None:
    """Refuse a model that computes something else from its own weights."""
    measure, limit = _tolerance(next(model.parameters()).dtype)
    try:
        found = plain_gap(model, original.rows, original.expected or [], measure)
    except Exception as error:
        raise InputError(
            f"{name!r} ({type(hf).__name__}) can't be run by TransformerLens: {brief(error)}"
        ) from error
    if not found <= limit:
        raise InputError(_refusal(name, type(hf).__name__, kind, found, "on an input of 16 tokens"))


def _judge(
    model: LanguageModel, name: str, gaps: Gaps, told: str, limit: float, kind: str = ""
) -> None:
    architecture = type(getattr(model, "original_model", model)).__name__
    for where, found in (
        ("on inputs beyond any sliding window", gaps.plain),
        ("in batches padded on the right", gaps.right),
        ("in batches padded on the left", gaps.left),
    ):
        if not found <= limit:
            raise InputError(_refusal(name, architecture, kind, found, f"{where}, against {told}"))
    if not gaps.cached <= limit:
        distrust_cache(model)
        warnings.warn(
            f"With a key-value cache, {name} ({architecture}) computes something else than "
            f"without: log-probabilities differ by {gaps.cached:.3g} nats, an error of this "
            "version of TransformerLens. The library runs it without the cache, which takes "
            "longer to generate; don't use the model's own generate.",
            stacklevel=5,
        )


def _refusal(name: str, architecture: str, kind: str, found: float, where: str) -> str:
    other = "use kind='bridge', or " if kind == "hooked" else ""
    return (
        f"TransformerLens {version('transformer-lens')} does not compute what Hugging Face "
        f"computes for {name!r} ({architecture}): log-probabilities differ from Hugging Face's by "
        f"{found:.3g} nats {where}. Its scores would be of another model; {other}try another "
        "version of TransformerLens"
    )


def _structure(hf: Any, kind: str) -> Gaps:
    """The gaps of a small model of the same configuration.

    Raises:
        NoSmallCopyError: none can be built and run.
    """
    key = structure_key(hf, kind)
    if key not in _remembered:
        found = _recall(key)
        if found is None:
            found = _measure(small_copy(hf), kind)
            remember(key, asdict(found))
        _remembered[key] = found
    return _remembered[key]


def _measure(small: Any, kind: str) -> Gaps:
    rows = probe_rows(small.config.vocab_size, lengths=(14, 9))
    source = Source(type(small).__name__)
    cpu = torch.device("cpu")
    try:
        expected = reference(small, rows)
        if kind == "hooked":
            model = as_hooked(small, None, source, torch.float32, cpu)
        else:
            model = as_bridge(small, None, source, cpu)
        return all_gaps(view(model.eval()), rows, expected)
    except Exception as error:  # the small model is at fault, not the user's
        raise NoSmallCopyError(
            f"a small model of its configuration can't be run ({brief(error)})"
        ) from error


def _recall(key: str) -> Gaps | None:
    try:
        return Gaps(**(recall(key) or {}))
    except TypeError:
        return None
