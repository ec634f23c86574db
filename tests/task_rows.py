"""Rows of tasks, and files of them."""

import json
from pathlib import Path
from typing import Any

from tl_taskneurons.tasks.task import Task

GOOD = {"input": "a", "target": "b"}


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def review(i: int) -> dict[str, Any]:
    label = ("bad", "good")[i % 2]
    return {"input": f"review {i}", "target": label, "label": label}


def colour(i: int) -> dict[str, Any]:
    return {"input": f"thing {i}", "target": f"red {i}", "label": None, "references": [f"rot {i}"]}


def inputs(task: Task) -> tuple[list[str], list[str]]:
    return [e.input for e in task.train], [e.input for e in task.test]
