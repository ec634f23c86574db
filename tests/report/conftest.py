"""A finished run, and reports of it."""

from pathlib import Path
from typing import Any

import helpers
import pytest
from report_pages import HOSTILE, PNG

from tl_taskneurons.cli import study as runs
from tl_taskneurons.report import page
from tl_taskneurons.report.page import write_report
from tl_taskneurons.runtime.run_folder import RunFolder
from tl_taskneurons.tasks.task import Example, Task, Tasks


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return helpers.tiny_lens("llama", tokenizer=tokenizer)


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    words = ("ash", "oak", "willow", "elm", "birch", "<i>fir</i>")

    def task(name: str, targets: list[str]) -> Task:
        examples = tuple(Example(*pair) for pair in zip(words, targets, strict=True))
        return Task(name, examples, examples, metric="exact_match")

    return Tasks(
        (task("upper", [w.upper() for w in words]), task(HOSTILE, [w[::-1] for w in words]))
    )


@pytest.fixture(scope="module")
def finished(model: Any, tasks: Tasks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of detect and deactivate on a tiny model; one of its tasks has a hostile name."""
    settings = runs.Settings(
        model="tiny", tasks=tasks.names, selections=("plain", "exclusive"), fraction=0.2, shots=1,
        limit=5, test_limit=2, controls=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with RunFolder.open(
        folder, settings.arguments(deactivate=True), kind="detect/deactivate"
    ) as run:
        study = runs.Study(run, model, tasks, settings)
        runs.deactivate(study, runs.detect(study))
        (folder / "layers-plain.png").write_bytes(PNG)
        run.finish()
    return folder


@pytest.fixture
def report(finished: Path, model: Any, tasks: Tasks, tmp_path: Path, monkeypatch: Any):
    """Write a report of the finished run with its model, with changes; return it as text."""
    monkeypatch.setattr(page, "load_tasks", lambda data, names, columns=None: tasks)

    def make(**options: Any) -> str:
        out = tmp_path / "page.html"
        assert write_report(finished, **{"model": model, "out": out, **options}) == out
        return out.read_text(encoding="utf-8")

    return make
