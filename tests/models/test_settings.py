"""What a script sets for all of PyTorch changes no model and no result."""

import contextlib
from collections.abc import Callable, Iterator

import helpers
import pytest
import torch
from torch.overrides import TorchFunctionMode

import tl_taskneurons as tn
from tl_taskneurons.tasks.prompts import Item

ITEMS = [Item(0, (256, 5, 9), (7, 1), ()), Item(1, (256, 4, 4, 1), (3,), ())]


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(1)


SETTINGS: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "deterministic algorithms": deterministic,
    "two threads": two_threads,
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_scores_and_fingerprints_are_the_same_under(setting: str):
    model = helpers.tiny_lens("llama")
    fingerprint, expected = tn.view(model).fingerprint, tn.score_items(model, ITEMS)
    with SETTINGS[setting]():
        found = tn.score_items(model, ITEMS)
        assert tn.view(model).fingerprint == fingerprint
    assert (found.double() - expected.double()).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("setting", ["default dtype float64", "default dtype bfloat16", "autocast"])
def test_models_load_the_same_under(setting: str):
    fingerprint, hf = tn.view(helpers.tiny_lens("llama")).fingerprint, helpers.tiny_hf("llama")
    with SETTINGS[setting]():
        model = tn.load_model(hf, device="cpu")
    assert tn.view(model).dtype == torch.float32
    assert tn.view(model).fingerprint == fingerprint


class NoGuessing(TorchFunctionMode):
    """As ``torch.set_default_device("cuda")``: a CPU generator needs ``device="cpu"`` said."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ANN001
        generator = (kwargs or {}).get("generator")
        if generator is not None and (kwargs or {}).get("device") is None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        return func(*args, **(kwargs or {}))


def test_a_default_device_does_not_disturb_fingerprints_and_checks():
    model = helpers.tiny_lens("llama")
    with NoGuessing():
        assert tn.view(model).fingerprint
        assert tn.check_model(model)


def test_a_default_device_does_not_disturb_what_is_drawn_at_random():
    model, task = helpers.tiny_lens("llama"), tn.load_tasks("mini", ["mini_food"], limit=4)[0]
    expected = tn.score_neurons(model, task, "random")
    neurons = expected.top(fraction=0.05)
    with NoGuessing():
        found = tn.score_neurons(model, task, "random")
        control = neurons.random_like(3)
    assert found.values.equal(expected.values)
    assert control.mask.equal(neurons.random_like(3).mask)


def test_a_compiled_model_is_refused_or_the_same():
    model = helpers.tiny_lens("llama")
    fingerprint, expected = tn.view(model).fingerprint, tn.score_items(model, ITEMS)
    compiled = torch.compile(model, backend="eager")
    try:
        found = tn.score_items(compiled, ITEMS)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError) as error:
        assert "compile" in str(error)
    else:
        assert tn.view(compiled).fingerprint == fingerprint  # pyright: ignore[reportArgumentType]
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
