"""What the HTML report costs: its size, the time to write it, and the time a browser opens it in.

    python benchmarks/report.py [--model smollm2-135m] [--tasks 12] [--run RUN_DIR] [--repeats 3]

Without ``--run`` it makes a run of few examples first (minutes). The time to open is
that of headless chromium from its start until the page's script is done and the DOM is printed,
less the same for an empty page, in seconds: the median over repeats, taken in turn. ``open, CPU``
is the same in processor time, which a busy machine stretches less; ``ready`` is what the page
itself measured, from navigation to the end of its script.
"""

import json
import math
import re
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import pandas as pd
from targets import Target

from tl_taskneurons.cli.settings import Settings
from tl_taskneurons.cli.study import deactivate, detect, open_study
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.report.page import write_report
from tl_taskneurons.report.terminal import draw
from tl_taskneurons.runtime.table_files import read_table

MOST_MB, MOST_SECONDS = 5.0, 2.0


def make_run(model: str, folder: Path, n_tasks: int, limit: int) -> None:
    """Detect and deactivate on few examples, with every table and figure."""
    data = "mini" if model.startswith("mini") else "builtin"  # what a mini model has words for
    settings = Settings(
        model=model, tasks=load_tasks(data).names[:n_tasks], data=data,
        selections=("plain", "exclusive"), fraction=0.01, limit=limit,
        test_limit=2, controls=1, shots=0,
    )  # fmt: skip
    with open_study(settings, folder, deactivating=True, progress=True) as study:
        tables = deactivate(study, detect(study))
        draw(study.run, read_table(study.run.file("layers.parquet")), tables)
        study.run.finish()


def open_seconds(page: Path, profile: Path) -> tuple[float, float, float]:
    """Return chromium's wall and CPU time for a page, and what the page says (0: an empty one)."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu"]
    command += [f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    ready = re.search(r'data-ready="(\d+)"', done.stdout)
    return seconds, cpu, int(ready[1]) / 1000 if ready else 0.0


def opening(page: Path, folder: Path, repeats: int) -> dict[str, float]:
    """Return the medians of the times to open a page and an empty one."""
    empty = folder / "empty.html"
    empty.write_text("<!DOCTYPE html><title>empty</title>")
    times: dict[Path, list[tuple[float, float, float]]] = {empty: [], page: []}
    for repeat in range(repeats + 1):
        for one, found in times.items():
            measured = open_seconds(one, folder / "profile")
            if repeat:  # the first round makes the profile
                found.append(measured)
    plain, full = ([statistics.median(kind) for kind in zip(*found, strict=True)]
                   for found in times.values())  # fmt: skip
    return {
        "empty page": plain[0], "report": full[0], "open": full[0] - plain[0],
        "open, CPU": full[1] - plain[1], "ready": full[2],
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table; write it to the results."""
    parser = measure.parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--run", type=Path, help="a finished run of this model")
    parser.add_argument("--tasks", type=int, default=12, help="tasks of the run it makes")
    parser.add_argument("--neurons", type=int, default=50)
    parser.add_argument("--limit", type=int, default=16, help="examples a task in the run it makes")
    given = measure.parse(parser, argv, model="mini-llama", tasks=3, neurons=3, limit=4)
    left_out = {}
    if shutil.which("chromium") is None:
        left_out["opening"] = "chromium is not installed"
    measured, settings = measure.apart(measure_page, given)
    table = pd.DataFrame.from_dict({"report": measured}, orient="index")
    targets = [
        Target("megabytes", measured["megabytes"], MOST_MB),
        Target("seconds to open", measured.get("open", math.nan), MOST_SECONDS),
    ]
    given.run = None if given.run is None else given.run.name
    measure.write(
        measure.result_name("report"), given, table, targets, run=settings, left_out=left_out
    )


def measure_page(given: Namespace) -> tuple[dict[str, float], dict[str, Any]]:
    """Write the page and open it; call it in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = given.run or folder / "run"
        if given.run is None:
            make_run(given.model, run, given.tasks, given.limit)
        model = load_model(given.model)
        start = time.process_time()
        page = write_report(run, model=model, out=folder / "report.html", neurons=given.neurons)
        measured = {
            "megabytes": page.stat().st_size / 1e6,
            "seconds to write": time.process_time() - start,
        }
        if shutil.which("chromium"):
            measured |= opening(page, folder, given.repeats)
        arguments = json.loads((run / "run.json").read_text())["arguments"]
    return measured, {key: arguments[key] for key in ("model", "tasks", "selections", "limit")}


if __name__ == "__main__":
    main()
