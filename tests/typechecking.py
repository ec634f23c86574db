"""What checks the package's signatures while the tests run: beartype, but for one protocol."""

from typing import Annotated, Any

from beartype import BeartypeConf, FrozenDict, beartype
from beartype.vale import Is

from tl_taskneurons.models.protocol import LanguageModel


def _anything(_value: Any) -> bool:
    return True


# A wrong model is for ``view`` to refuse, whose messages the tests read, and a model that looks
# like one of TransformerLens is one; so at run time its protocol takes anything.
checked = beartype(
    conf=BeartypeConf(hint_overrides=FrozenDict({LanguageModel: Annotated[object, Is[_anything]]}))
)
