"""The list of supported models is what this test builds."""

import architectures
import pytest


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "bridge") for name in architectures.SUPPORTED]
    + [
        pytest.param(name, "hooked", marks=pytest.mark.needs("hooked"))
        for name in architectures.HOOKED
    ],
)
@pytest.mark.filterwarnings("ignore:With a key-value cache, Mpt:UserWarning")
def test_everything_agrees_with_plain_pytorch(name: str, kind: str):
    found = vars(architectures.audit(name, kind))
    if name == "Mpt":
        found.pop("cached")  # wrong in 3.9, and not used there
    assert max(found.values()) <= architectures.LIMIT, found


def test_the_page_of_supported_models_is_current():
    assert architectures.PAGE.read_text(encoding="utf-8") == architectures.page()
