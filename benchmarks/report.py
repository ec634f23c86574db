"""What the HTML report costs: its size, the time to write it, and the time a browser opens it in.

    python benchmarks/report.py [--model smollm2-135m] [--run RUN_DIR] [--repeats 5]

Without ``--run`` it makes a small run of three tasks first (a few minutes). The time to open is
that of headless chromium from its start until the page's script is done and the DOM is printed,
less the same for an empty page, in seconds: the median over repeats, taken in turn. ``open, CPU``
is the same in processor time, which a busy machine stretches less; ``ready`` is what the page
itself measured, from navigation to the end of its script.
"""

import argparse
import json
import re
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tl_taskneurons.html import write_report
from tl_taskneurons.loading import load_model
from tl_taskneurons.report import draw
from tl_taskneurons.results import provenance, read_table
from tl_taskneurons.runs import Settings, deactivate, detect, open_study

TASKS = ("present_past", "city_country", "singular_plural")
MOST_MB, MOST_SECONDS = 5.0, 2.0


def make_run(model: str, folder: Path) -> None:
    """Detect and deactivate on few examples, with every table and figure."""
    settings = Settings(
        model=model, tasks=TASKS, selections=("plain", "exclusive"), fraction=0.01, limit=16,
        test_limit=4, controls=2,
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


def main() -> None:
    """Measure and print; write it to benchmarks/results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--run", type=Path, help="a finished run of this model")
    parser.add_argument("--neurons", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = given.run or folder / "run"
        if given.run is None:
            make_run(given.model, run)
        model = load_model(given.model)
        start = time.perf_counter()
        page = write_report(run, model=model, out=folder / "report.html", neurons=given.neurons)
        measured: dict[str, Any] = {
            "megabytes": page.stat().st_size / 1e6,
            "seconds to write": time.perf_counter() - start,
        }
        if shutil.which("chromium"):
            measured["seconds to open"] = opening(page, folder, given.repeats)
        arguments = json.loads((run / "run.json").read_text())["arguments"]
    for what, value in measured.items():
        print(f"{what}: {value}")
    print(f"targets: below {MOST_MB} MB, open below {MOST_SECONDS} s")
    facts = {key: value for key, value in provenance().items() if key != "time"}
    content = {
        "run": {key: arguments[key] for key in ("model", "tasks", "selections", "limit")},
        "neurons": given.neurons, "repeats": given.repeats, "machine": facts,
        "targets": {"megabytes": MOST_MB, "seconds to open": MOST_SECONDS}, "measured": measured,
    }  # fmt: skip
    out = Path(__file__).parent / "results" / "report.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
