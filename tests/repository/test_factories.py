"""No new tensor takes its device or its dtype from what a script has set for all of PyTorch."""

import ast
from pathlib import Path

import tl_taskneurons as tn

_FLOATS = {"zeros", "ones", "empty", "full", "eye", "linspace", "rand", "randn"}
_FACTORIES = _FLOATS | {"arange", "tensor", "randint", "randperm"}


def _guesses(source: str) -> list[str]:
    """Calls of torch's factories that leave something to the defaults."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, owner = node.func.attr, node.func.value
        if not (isinstance(owner, ast.Name) and owner.id == "torch" and name in _FACTORIES):
            continue
        given = {keyword.arg for keyword in node.keywords}
        if "device" not in given or (name in _FLOATS and "dtype" not in given):
            found.append(ast.unparse(node))
    return found


def test_every_new_tensor_says_its_device_and_dtype():
    root = Path(tn.__file__).parent
    found = {str(path.relative_to(root)): _guesses(path.read_text()) for path in root.rglob("*.py")}
    assert {path: calls for path, calls in found.items() if calls} == {}


def test_guesses_are_found():
    assert _guesses("torch.rand(3, device='cpu')") and _guesses("torch.arange(3)")
    assert not _guesses("torch.zeros(3, dtype=torch.bool, device=d)")
