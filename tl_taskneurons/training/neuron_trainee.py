"""Gradients of chosen neurons' weights alone, formed where the MLP's inputs and gradients meet.

With every weight frozen, a backward pass computes gradients of activations only. For the chosen
neurons S of a layer the weights' gradients are then small matrix products:

    dL/dW_in[:, S]  = x^T g_pre[:, S]      x: the MLP's input, g_pre: gradient at its pre-activation
    dL/dW_out[S, :] = a[:, S]^T g_out      a: the activations, g_out: gradient at the MLP's output

so that time and memory follow the share of neurons. Nothing below the lowest chosen layer takes
part in the backward pass.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tl_taskneurons.models.forward import in_runs_asked_for
from tl_taskneurons.models.hooks import add_hook
from tl_taskneurons.models.layers import MLPLayer
from tl_taskneurons.models.mlp_modules import Linear, mlp_modules
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.errors import InputError, StateError
from tl_taskneurons.training.deltas import NeuronDelta
from tl_taskneurons.training.slices import SliceName, Slices, read_slices, write_slices


class NeuronTrainee:
    """The chosen neurons' weights as float32 masters, for ``training.runner.train``.

    Attributes:
        masters: the float32 tensors by name, as in ``read_slices``.
        parameters: the same tensors, in order.
    """

    def __init__(self, model_view: ModelView, neurons: NeuronSet) -> None:
        if not len(neurons):
            raise InputError(f"{neurons!r} has no neuron to train; choose at least one.")
        self._view, self._neurons = model_view, neurons
        self._base = read_slices(model_view, neurons)
        self.masters = self._base.map(_master)
        self._leaves: Mapping[str, Tensor] = self.masters  # what gradients are for
        self.parameters = list(self.masters.values())

    @property
    def key(self) -> str:
        """What is trained, as a hash."""
        hashed = hashlib.sha256(self._hashed()).hexdigest()
        return f"neurons/{self._neurons.fingerprint}/{hashed}"

    @property
    def facts(self) -> dict[str, str]:
        """What is trained, for ``info``."""
        return {"trained": "neurons", "neurons": self._neurons.name}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Put the old bytes back at the end."""
        with Undo() as undo:
            undo.add(write_slices, self._view, self._neurons, self._base)
            yield

    def delta(self, name: str, info: Mapping[str, Any], history: pd.DataFrame) -> NeuronDelta:
        """Return what was trained."""
        return NeuronDelta(
            neurons=self._neurons,
            base=self._base.map(lambda value: value.cpu().contiguous()),
            trained=self.masters.map(lambda value: value.detach().cpu()),
            name=name,
            info=info,
            history=history,
        )

    def penalty(self) -> None:
        """The loss has no further term."""

    def _hashed(self) -> bytes:
        return self._neurons.mask.to(torch.uint8).numpy().tobytes()

    def write(self) -> None:
        """Copy the masters into the model, rounded to its dtype."""
        write_slices(self._view, self._neurons, self.masters)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """While open, a backward pass adds the chosen slices' gradients to the masters' ``.grad``.

        Raises:
            RuntimeError: when a layer's MLP did not run as expected.
        """
        chosen = self._neurons.layers()
        lowest = min(chosen)
        with ExitStack() as stack:
            taps = [
                _Tap(self._view.layers[layer], index, self._add, starts=layer == lowest)
                for layer, index in chosen.items()
            ]
            for tap in taps:
                stack.enter_context(tap.open())
            yield
        for name in {name for tap in taps for name in tap.seen}:
            leaf = self._leaves[name]
            if leaf.grad is None:  # someone's hook has put something else in place
                leaf.grad = torch.zeros_like(leaf)
        missing = [name for name, leaf in self._leaves.items() if leaf.grad is None]
        if missing:
            raise StateError(
                f"The backward pass never reached {', '.join(missing[:4])} of {self._view.name}: "
                "its MLP did not run through the modules that this library expects."
            )

    def _add(self, name: str, gradient: Tensor) -> None:
        leaf = self._leaves[name]
        gradient = gradient.to(leaf.device, torch.float32)
        if leaf.grad is None:
            leaf.grad = gradient
        else:
            leaf.grad += gradient


class ScaledNeuronTrainee(NeuronTrainee):
    """The chosen neurons' weights, with each neuron's updates scaled by a factor of its own.

    AdamW divides by the size of the gradients, so scaling those would change nothing. It trains
    the move of each weight from its start instead, and the weight is ``start + factor * move``: a
    factor of 0 leaves a neuron as it is. Weight decay pulls towards the start.

    Args:
        model_view: the model.
        neurons: which neurons.
        update_scale: a factor for every neuron of the model.
    """

    def __init__(
        self,
        model_view: ModelView,
        neurons: NeuronSet,
        update_scale: Float[Tensor, "layer d_mlp"],
    ) -> None:
        super().__init__(model_view, neurons)
        if not isinstance(update_scale, Tensor) or tuple(update_scale.shape) != model_view.shape:
            shape = tuple(getattr(update_scale, "shape", ())) or repr(update_scale)
            raise InputError(
                f"update_scale is {shape}; it must be a tensor of shape {model_view.shape}, a "
                "factor for every neuron."
            )
        wrong = update_scale[~((update_scale >= 0) & (update_scale <= 1))]
        if len(wrong):
            raise InputError(f"update_scale has {float(wrong[0]):g}; factors must be from 0 to 1.")
        chosen = neurons.layers()
        self._scale, self._start = update_scale, self.masters
        self._factors: dict[str, Tensor] = {}
        for name, value in self._start.items():
            key = SliceName.parse(name)
            factor = update_scale[key.layer][chosen[key.layer]].to(value.device, torch.float32)
            self._factors[name] = factor[:, None] if key.part == "W_out" else factor
        self._leaves = {name: torch.zeros_like(value) for name, value in self._start.items()}
        self.parameters = list(self._leaves.values())

    @torch.no_grad()
    def write(self) -> None:
        """Copy the weights into the model, rounded to its dtype."""
        self.masters = Slices(
            self._neurons,
            {
                name: start + self._factors[name] * self._leaves[name]
                for name, start in self._start.items()
            },
        )
        super().write()

    def _hashed(self) -> bytes:
        return super()._hashed() + self._scale.float().cpu().numpy().tobytes()

    def _add(self, name: str, gradient: Tensor) -> None:
        super()._add(name, gradient * self._factors[name].to(gradient.device))


class _Tap:
    """Hooks on one layer's MLP that form the gradients of its chosen neurons.

    They see what each matrix is multiplied with and what that gives, whatever hooks of others make
    of it before and afterwards.

    Attributes:
        seen: the weights that took part in the forward pass.
    """

    def __init__(
        self,
        layer: MLPLayer,
        index: Tensor,
        add: Callable[[str, Tensor], None],
        *,
        starts: bool,
    ) -> None:
        self._layer, self._add, self._starts = layer, add, starts
        self._index = index.to(layer.parameters["W_out"].parameter.device)
        self._input: Tensor | None = None
        self._activation: Tensor | None = None
        self.seen: set[str] = set()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Attach the hooks; detach them at the end."""
        incoming, post, output = mlp_modules(self._layer)

        def forget() -> None:
            self._input = self._activation = None

        with Undo() as undo:
            undo.add(forget)
            for line in incoming:
                _before(undo, _inner(line.reads), self._keep_input)
            matrix = _inner(output)
            if matrix is output:
                keep = in_runs_asked_for(self._keep_activation)
                add_hook(undo, post, partial(post.register_forward_hook, keep))
            else:
                _before(undo, matrix, self._keep_read)
            _after(undo, matrix, self._on_output)
            for line in incoming:
                _after(undo, _inner(line.module), self._on_incoming(line))
            yield

    def _name(self, part: str) -> str:
        return str(SliceName(self._layer.index, part))

    def _keep_input(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self._input = args[0].detach()

    def _keep_activation(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self._activation = output.detach().index_select(-1, self._index)

    def _keep_read(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._keep_activation(module, (), args[0])

    def _on_incoming(self, linear: Linear) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            own = _differentiable(output, cut=self._starts)
            source = self._input
            if source is None:
                raise StateError(
                    f"The MLP of layer {self._layer.index} computed its activations before it was "
                    "called; this architecture is not supported."
                )

            def on_gradient(gradient: Tensor) -> None:
                chosen = _by_token(gradient.index_select(-1, self._index))
                self._add(self._name(linear.weight), _by_token(source).mT @ chosen)
                if linear.bias is not None:
                    self._add(self._name(linear.bias), chosen.float().sum(0))

            _base(own).register_hook(on_gradient)
            self.seen |= {self._name(linear.weight)}
            if linear.bias is not None:
                self.seen |= {self._name(linear.bias)}
            return _handed_on(own, output)

        return hook

    def _on_output(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        activation = self._activation
        if activation is None:
            raise StateError(
                f"The hook {self._layer.hook} never fired before the MLP's output; this "
                "architecture is not supported."
            )

        def on_gradient(gradient: Tensor) -> None:
            self._add(self._name("W_out"), _by_token(activation).mT @ _by_token(gradient))

        own = _differentiable(output)
        _base(own).register_hook(on_gradient)
        self.seen.add(self._name("W_out"))
        return _handed_on(own, output)


def _differentiable(output: Tensor, *, cut: bool = False) -> Tensor:
    """The output, or a leaf of its values to cut the graph, or where hooks of others cut it."""
    return output if output.requires_grad and not cut else output.detach().requires_grad_()


def _base(own: Tensor) -> Tensor:
    """Where to hook the gradient: a view that is changed in place later loses its hooks."""
    base = own._base
    if base is None or not (own.is_contiguous() and base.is_contiguous()):
        return own
    same = base.requires_grad and base.numel() == own.numel() and base.shape[-1] == own.shape[-1]
    return base if same else own


def _handed_on(own: Tensor, output: Tensor) -> Tensor:
    """What takes the output's place; hooks of others may change it in place, but no leaf."""
    return output if own is output else own.clone()


def _inner(module: nn.Module) -> nn.Module:
    """The module that a bridge calls between its hook points; any other module itself."""
    return getattr(module, "original_component", module)


def _before(undo: Undo, module: nn.Module, hook: Callable[..., None]) -> None:
    """Add a hook that sees what a module is given in the end."""
    acting = in_runs_asked_for(hook)
    add_hook(undo, module, partial(module.register_forward_pre_hook, acting))


def _after(undo: Undo, module: nn.Module, hook: Callable[..., Tensor | None]) -> None:
    """Add a hook that sees what a module gives at first."""
    acting = in_runs_asked_for(hook)
    add_hook(undo, module, partial(module.register_forward_hook, acting, prepend=True))


def _master(value: Tensor) -> Tensor:
    return value.float().clone(memory_format=torch.contiguous_format)


def _by_token(values: Float[Tensor, "*batch_pos d"]) -> Float[Tensor, "token d"]:
    return rearrange(values, "... d -> (...) d")
