"""Both classes of TransformerLens have what this library asks of a model."""

from typing import TYPE_CHECKING

import helpers
import pytest

import tl_taskneurons as tn

if TYPE_CHECKING:  # for the type checker, which knows the classes
    from transformer_lens import HookedTransformer
    from transformer_lens.model_bridge import TransformerBridge

    def _are(
        hooked: HookedTransformer, bridge: TransformerBridge
    ) -> tuple[tn.LanguageModel, tn.LanguageModel]:
        return hooked, bridge


ASKED = [name for name in vars(tn.LanguageModel) if not name.startswith("_")]


@pytest.mark.parametrize(
    "kind", ["bridge", pytest.param("hooked", marks=pytest.mark.needs("hooked"))]
)
def test_a_model_has_all_that_is_asked_of_it(kind: str):
    model = helpers.tiny_lens("llama", kind)
    assert {"cfg", "tokenizer", "hook_dict", "named_parameters"} <= set(ASKED)
    assert [name for name in ASKED if not hasattr(model, name)] == []
    assert tn.view(model).layers[0].hook in model.hook_dict
