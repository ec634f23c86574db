"""An empty cache, for the tests that ask for it."""

from pathlib import Path

import pytest


@pytest.fixture
def cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache for every test that does not need the real SmolLM2 (converted once)."""
    folder = tmp_path / "cache"
    needs = [what for mark in request.node.iter_markers("needs") for what in mark.args]
    if "smollm2" not in needs:
        monkeypatch.setenv("TL_TASKNEURONS_CACHE", str(folder))
    return folder
