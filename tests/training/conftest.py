"""The neurons that a file's own model trains, for the tests that ask for them."""

from typing import Any

import helpers
import pytest

from tl_taskneurons import score_neurons


@pytest.fixture
def neurons(model: Any):
    return score_neurons(model, helpers.toy_task(), "random").top(fraction=0.2)
