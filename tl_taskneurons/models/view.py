"""One view of a model's MLP neurons, for HookedTransformer and TransformerBridge alike.

A neuron is ``(layer, j)``: column j of the input matrix (and of the gate where the MLP is gated)
together with row j of the output matrix. Its activation is what enters the output matrix, the
hook point ``mlp.hook_post``.
"""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_taskneurons.models import identity
from tl_taskneurons.models.layers import (
    MLPLayer,
    NeuronParameter,
    _bridge_layer,
    _hooked_layer,
)
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.errors import InputError, InputTypeError, UnknownNameError

_NOT_CAUSAL = ("HookedEncoder", "HookedEncoderDecoder", "HookedAudioEncoder", "BertNextSentence")


@dataclass(frozen=True, eq=False)
class ModelView:
    """The MLP neurons of a model.

    Attributes:
        model: the HookedTransformer or TransformerBridge.
        name: the model's name, for tables and messages.
        layers: one entry per layer.
        is_bridge: True for a TransformerBridge.
    """

    model: LanguageModel
    name: str
    layers: tuple[MLPLayer, ...]
    is_bridge: bool

    def __repr__(self) -> str:
        """One line; it says whether the model was compared with Hugging Face's."""
        kind = "TransformerBridge" if self.is_bridge else "HookedTransformer"
        model = self.model
        told = "unchecked: see check_model"
        if model in _checked:
            told = f"checked but for {_checked[model]}" if _checked[model] else "checked"
        return (
            f"ModelView({self.name!r}, {kind}, {self.n_layers} x {self.d_mlp} "
            f"{'gated ' if self.gated else ''}neurons, {self.dtype} on {self.device}, {told})"
        )

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def d_mlp(self) -> int:
        """Neurons per layer."""
        return self.layers[0].d_mlp

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_layers, d_mlp)``, the shape of scores and sets."""
        return self.n_layers, self.d_mlp

    @property
    def gated(self) -> bool:
        """Whether the MLPs are gated."""
        return self.layers[0].gated

    @property
    def device(self) -> torch.device:
        """Where the first layer's neurons live."""
        return self.layers[0].parameters["W_out"].parameter.device

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the neurons' weights."""
        return self.layers[0].parameters["W_out"].parameter.dtype

    @property
    def n_ctx(self) -> int | None:
        """The longest input in tokens, where the model states it."""
        n_ctx = getattr(self.model.cfg, "n_ctx", None)
        return int(n_ctx) if n_ctx else None

    @property
    def fingerprint(self) -> str:
        """A short name for this shape and these weights.

        For example ``"30x1536-9f0c2ab1d4e57788-1c52e0b37f90a6d4"``: layers, neurons per layer, the
        neurons' weights, and all else that decides the forward pass (attention, embeddings, norms,
        buffers, entries of the config, active adapters). Values count as bfloat16, so one model
        loaded by ``load_model`` in float32 and in bfloat16, as HookedTransformer and as
        TransformerBridge, has one fingerprint. The bytes are read at every use, so no change goes
        unseen; without one, that takes a small part of a forward pass.
        """
        model = self.model
        if model in _pinned:
            return _pinned[model][0]
        return identity.fingerprint(model, self.parameters, self.shape)

    @property
    def kind(self) -> str:
        """``"bridge"`` or ``"hooked"``, as ``load_model`` calls the classes."""
        return "bridge" if self.is_bridge else "hooked"

    @property
    def result_key(self) -> str:
        """What results are kept under: the fingerprint, the class and the dtype.

        A fingerprint is the same in float32 and bfloat16, what a model computes is not.
        """
        return f"{self.fingerprint}/{self.kind}/{self.dtype}"

    def share_identity(self, bridge: "ModelView") -> None:
        """Take the fingerprint of a bridge of the same weights, until weights change."""
        identity.share_identity(self.model, self.parameters, bridge.model, bridge.parameters)

    @property
    def parameters(self) -> tuple[NeuronParameter, ...]:
        """Every neuron's parameters, layer by layer."""
        return tuple(part for layer in self.layers for part in layer.parameters.values())

    def read(self, layer: int, neurons: Int[Tensor, " n"]) -> dict[str, Float[Tensor, "..."]]:
        """Copy the parameters of some neurons of a layer, in TransformerLens orientation.

        Returns:
            ``W_in`` and ``W_gate`` ``[d_model, n]``, ``W_out`` ``[n, d_model]``, biases ``[n]``;
            only those the model has. They lie in memory as in the model, which is not always in
            this order: reading and writing along the model's own rows is several times faster.
        """
        index = neurons.to(self.device_of(layer))
        return {
            name: part.orient(part.parameter.detach().index_select(part.axis, index))
            for name, part in self.layers[layer].parameters.items()
        }

    def write(
        self, layer: int, neurons: Int[Tensor, " n"], values: Mapping[str, Float[Tensor, "..."]]
    ) -> None:
        """Overwrite parameters of some neurons of a layer, in place, as ``read`` returns them.

        Raises:
            KeyError: for a parameter the layer doesn't have.
        """
        parameters = self.layers[layer].parameters
        for name, value in values.items():
            if name not in parameters:
                raise UnknownNameError(
                    f"Layer {layer} of {self.name} has no {name}; it has {sorted(parameters)}."
                )
            part = parameters[name]
            target = part.parameter.detach()
            source = part.orient(value, back=True).to(target.device, target.dtype).contiguous()
            target.index_copy_(part.axis, neurons.to(target.device), source)

    def device_of(self, layer: int) -> torch.device:
        """Where a layer's neurons live (they may be spread over devices)."""
        return self.layers[layer].parameters["W_out"].parameter.device


def view(model: LanguageModel | ModelView) -> ModelView:
    """Find the MLP neurons of a TransformerLens model.

    Args:
        model: a ``HookedTransformer`` or ``TransformerBridge`` of a decoder-only model.

    Raises:
        TypeError: for anything else, a plain Hugging Face model included.
        ValueError: for an architecture without plain MLP neurons (mixture of experts, Mamba,
            attention only, encoder-decoder), quantised weights, SoLU with layer norm, or a gated
            HookedTransformer with an input bias; the message names the layer and the cause.
    """
    kind = type(model).__name__
    if isinstance(model, ModelView):
        return model
    if hasattr(model, "_orig_mod"):
        raise InputTypeError(
            "This model was wrapped by torch.compile, which hooks don't reach reliably; pass the "
            "model that you compiled (model._orig_mod)."
        )
    hooks = getattr(model, "hook_dict", None)  # a bridge collects it anew at every access
    if hooks is None or not hasattr(model, "cfg"):
        raise InputTypeError(
            f"Expected a HookedTransformer or TransformerBridge, got {kind}. Wrap a Hugging Face "
            "model with tl_taskneurons.load_model(hf_model, tokenizer=...)."
        )
    name = str(getattr(model.cfg, "model_name", "") or kind)
    is_bridge = hasattr(model, "original_model")
    if "Remote" in kind:
        raise InputTypeError(
            f"{name} is a {kind}, whose weights live elsewhere; load the model here."
        )
    blocks = getattr(model, "blocks", None)
    adapter = getattr(model, "adapter", None)
    # Encoders and diffusion models state one or the other; a HookedTransformer has no adapter.
    flags = ("supports_causal_loss", "supports_generation")
    causal = all(getattr(adapter, flag, True) for flag in flags)
    if kind.startswith(_NOT_CAUSAL) or blocks is None or not causal:
        raise InputError(
            f"{name} ({kind}) is not a decoder-only causal model with a stack of blocks, so it has "
            "no MLP neurons that this library could score. Use a model like Llama, GPT-2 or Bloom."
        )
    layers = tuple(
        _bridge_layer(name, i, block, hooks) if is_bridge else _hooked_layer(name, i, block, hooks)
        for i, block in enumerate(blocks)
    )
    if not layers:
        raise InputError(f"{name} has no layers.")
    widths = sorted({layer.d_mlp for layer in layers})
    if len(widths) > 1:
        raise InputError(
            f"{name} has layers of different widths {widths}; one d_mlp for all layers is needed."
        )
    return ModelView(model, name, layers, is_bridge)


def require_same_model(what: str, fingerprint: str, model_view: ModelView) -> None:
    """Raise ValueError unless ``fingerprint`` is the model's.

    Args:
        what: what carries the fingerprint, for the message, e.g. ``"NeuronSet 'sst2'"``.
        fingerprint: the fingerprint it carries.
        model_view: the model it is used with.
    """
    if not identity.same_model(fingerprint, model_view.fingerprint):
        raise InputError(
            f"{what} belongs to model {fingerprint}, but {model_view.name} is "
            f"{model_view.fingerprint}. Detect neurons in this model, or, if you mean the same "
            "neurons in changed weights, call .rebind(model) first."
        )


_checked: "weakref.WeakKeyDictionary[LanguageModel, str]" = weakref.WeakKeyDictionary()


def mark_checked(model: LanguageModel, *, but: str = "") -> None:
    """Remember that a model was compared with what Hugging Face computes.

    Args:
        model: which.
        but: what was not compared.
    """
    _checked[model] = but


def is_pinned(model_view: ModelView) -> bool:
    """Whether a model's weights are changed for a moment, under the fingerprint of its own."""
    return model_view.model in _pinned


# Fingerprints, and who holds them: contexts may close in any order.
_pinned: "weakref.WeakKeyDictionary[LanguageModel, tuple[str, set[object]]]" = (
    weakref.WeakKeyDictionary()
)


@contextmanager
def pinned_fingerprint(model_view: ModelView) -> Iterator[None]:
    """Keep a model's fingerprint while its weights are changed for a moment."""
    model, own = model_view.model, object()
    with Undo() as undo:
        undo.add(_let_go, model, own)
        if model not in _pinned:
            _pinned[model] = (model_view.fingerprint, set())
        _pinned[model][1].add(own)
        yield


def _let_go(model: LanguageModel, own: object) -> None:
    holders = _pinned[model][1] if model in _pinned else set()
    holders.discard(own)
    if not holders:
        _pinned.pop(model, None)
