"""LoRA adapters (``peft``) on the matrices of a bridge's Hugging Face model."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from tl_taskneurons.models.forward import frozen
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.errors import InputError, InputTypeError, MissingPackageError
from tl_taskneurons.runtime.options import require_number
from tl_taskneurons.training.deltas import LoraDelta
from tl_taskneurons.training.deltas.lora import attention_linears, is_conv1d
from tl_taskneurons.training.slices import SliceName

_ADAPTER = "default"


class LoraWeights:
    """LoRA adapters on matrices of a bridge's Hugging Face model, by ``peft``.

    Args:
        model_view: a TransformerBridge's view.
        rank: of the adapters.
        alpha: the change is scaled by ``alpha / rank``; None takes twice the rank.
        seed: of the adapters' start.
        attention: whether attention's matrices get adapters too, or the MLPs' alone.
        start: adapters to start from, in place of a random start that changes nothing.
        penalty: a term of the down factors ``[d_in, rank]`` by matrix that is added to the loss.

    Attributes:
        parameters: the adapters' float32 tensors, while attached.
        scaling: alpha / rank.

    Raises:
        ImportError: without ``peft``.
        TypeError: for a HookedTransformer.
    """

    def __init__(
        self,
        model_view: ModelView,
        rank: int = 16,
        alpha: float | None = None,
        seed: int = 0,
        *,
        attention: bool = False,
        start: LoraDelta | None = None,
        penalty: Callable[[Mapping[str, Tensor]], Tensor] | None = None,
    ) -> None:
        require_number("rank", rank, whole=True, least=1)
        require_number("alpha", alpha)
        if alpha is not None and not 0 < alpha < math.inf:
            raise InputError(f"alpha is {alpha}; it must be a positive number.")
        if not model_view.is_bridge:
            raise InputTypeError(
                f"{model_view.name} is a HookedTransformer, whose matrices are no modules that "
                "peft could adapt; load it with kind='bridge'."
            )
        self._view, self._rank, self._seed = model_view, rank, seed
        self._attention, self._start, self._penalty = attention, start, penalty
        self.scaling = (2.0 * rank if alpha is None else alpha) / rank
        self.parameters: list[Tensor] = []
        self._layers: dict[str, Any] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Put adapters into the model; at the end the plain modules are back."""
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise MissingPackageError(
                "LoRA needs peft; install it with pip install 'tl-taskneurons[compare]'"
            ) from error
        hf = self._view.model.original_model
        if hasattr(hf, "peft_config") or any(hasattr(m, "get_base_layer") for m in hf.modules()):
            raise InputError(
                f"{self._view.name} has adapters of its own, which further ones would displace; "
                "load the Hugging Face model with load_model, which merges a copy."
            )
        homes = {id(module): name for name, module in hf.named_modules()}
        plain = self._linears()
        names = {key: homes[id(module)] for key, module in plain.items()}

        def inject(transposed: bool) -> None:
            """Put adapters on one kind of modules; GPT-2 has both."""
            wanted = [names[key] for key, each in plain.items() if is_conv1d(each) == transposed]
            if not wanted:
                return
            config = LoraConfig(
                r=self._rank, lora_dropout=0.0, target_modules=wanted, fan_in_fan_out=transposed,
                lora_alpha=self.scaling * self._rank,  # pyright: ignore[reportArgumentType] (any number)
            )  # fmt: skip
            inject_adapter_in_model(config, hf, adapter_name=_ADAPTER)
            if hasattr(hf, "peft_config"):
                del hf.peft_config

        device = self._view.device

        def put_back() -> None:
            if hasattr(hf, "peft_config"):
                del hf.peft_config
            for key, name in names.items():
                parent, _, child = name.rpartition(".")
                setattr(hf.get_submodule(parent), child, plain[key])
            self.parameters, self._layers = [], {}

        with Undo() as undo:
            undo.add(put_back)
            # peft freezes the other weights and leaves them so.
            with frozen(self._view.model):
                with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                    torch.manual_seed(self._seed)
                    inject(transposed=True)
                    inject(transposed=False)
                modules = dict(hf.named_modules())
                self._layers = {key: modules[name] for key, name in names.items()}
                self.parameters = [
                    adapter[_ADAPTER].float().weight
                    for layer in self._layers.values()
                    for adapter in (layer.lora_A, layer.lora_B)
                ]
                if self._start is not None:
                    self.start_from(self._start.factors)
                yield

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """While open, a backward pass leaves the adapters' gradients in ``.grad``."""
        with Undo() as undo:
            for weight in self.parameters:
                undo.add(weight.requires_grad_, False)
                weight.requires_grad_(True)
            yield

    def write(self) -> None:
        """Do nothing: the adapters are part of the model while it trains."""

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Copies of the adapters, oriented as in ``LoraDelta``."""
        return {
            key: (
                layer.lora_A[_ADAPTER].weight.detach().mT.cpu().clone(),
                layer.lora_B[_ADAPTER].weight.detach().mT.cpu().clone(),
            )
            for key, layer in self._layers.items()
        }

    @torch.no_grad()
    def start_from(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Give the attached adapters the values of ``factors()``."""
        for key, (down, up) in factors.items():
            layer = self._layers[key]
            layer.lora_A[_ADAPTER].weight.copy_(down.mT)
            layer.lora_B[_ADAPTER].weight.copy_(up.mT)

    @property
    def key(self) -> str:
        """What is trained."""
        return f"{self._words()}/{self._view.fingerprint}"

    @property
    def facts(self) -> dict[str, str]:
        """What is trained, for ``info``."""
        return {"trained": self._words(), "dtype": str(self._view.dtype)}

    def delta(self, name: str, info: Mapping[str, Any], history: pd.DataFrame) -> LoraDelta:
        """Return the attached adapters as they are."""
        fingerprint = self._view.fingerprint
        return LoraDelta(fingerprint, self.factors(), self.scaling, name, info, history)

    def penalty(self) -> Tensor | None:
        """The given term of the attached down factors."""
        if self._penalty is None:
            return None
        downs = {key: layer.lora_A[_ADAPTER].weight.mT for key, layer in self._layers.items()}
        return self._penalty(downs)

    def _words(self) -> str:
        also = " with attention" if self._attention else ""
        return f"LoRA rank {self._rank} scaling {self.scaling:g}{also}"

    def _linears(self) -> dict[str, nn.Module]:
        """The modules that get adapters, by ``"{layer}/{part}"``."""
        roles = {"W_in": "in", "W_gate": "gate", "W_out": "out"}
        found = {
            str(SliceName(layer.index, name)): getattr(layer.module, role).original_component
            for layer in self._view.layers
            for name, role in roles.items()
            if name in layer.parameters
        }
        return found | (attention_linears(self._view) if self._attention else {})
