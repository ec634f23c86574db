"""What this library asks of a model; both classes of TransformerLens have it."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import nn
from transformer_lens.hook_points import HookPoint


class LanguageModel(Protocol):
    """A decoder-only model: ``HookedTransformer`` or ``TransformerBridge``, or one that looks so.

    ``view`` says of any object whether it can be used, and if not, why.
    """

    @property
    def cfg(self) -> Any:
        """TransformerLens' configuration: ``n_ctx``, ``d_vocab``, ``model_name``; each class's."""
        ...

    @property
    def tokenizer(self) -> Any:
        """A tokenizer of Hugging Face, or None."""
        ...

    @property
    def hook_dict(self) -> Mapping[str, HookPoint]:
        """The hook points by name, ``blocks.{layer}.mlp.hook_post`` among them."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Logits ``[batch, pos, d_vocab]`` of token ids ``[batch, pos]``."""
        ...

    def __getattr__(self, name: str) -> Any:
        """Submodules, as any ``nn.Module`` gives them: ``blocks``, ``unembed``."""
        ...

    def eval(self) -> Any:
        """Switch dropout off."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """Every module within, itself included."""
        ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules with their dotted names."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every weight."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights with their dotted names."""
        ...
