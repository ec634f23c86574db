"""What can be known of this library on one GPU, in at most eight minutes.

    python benchmarks/gpu.py --out runs/gpu                      # on an NVIDIA GPU
    python benchmarks/gpu.py --out runs/gpu --device cpu --tiny  # small shapes, anywhere

In the order of worth: (a) correctness: scores, interventions, evaluation, training and deltas in
float32 and bfloat16 against the CPU in float32; (b) a Llama-2-7b shape with random weights in
bfloat16: detection, evaluation, training steps, and ``plan`` against what is measured; (c)
SmolLM2-135M: the paper's experiments, by the commands of ``tl_taskneurons.experiments``.

Every unit leaves a small CSV table in the folder at once and is not run again; a unit that fails
leaves its error in ``log.txt`` and the next one goes on. The work runs in a process of its own,
which is ended at the time limit, so that nothing can outlast it.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

GRACE = 5  # seconds between asking the process to end and ending it


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, required=True, help="folder of the tables and the log")
    made.add_argument("--device", default="cuda", help="cuda, cuda:1, ... or cpu")
    made.add_argument("--tiny", action="store_true", help="small shapes, to see that it runs")
    made.add_argument("--minutes", type=float, default=8.0, help="the time limit")
    made.add_argument("--only", help="parts to run, as in a,b")
    made.add_argument("--data", type=Path, help="folder of tasks for part c")
    made.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the units that are missing, within the time limit; return 0, or 2 for a user's error."""
    given = parser().parse_args(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.work:
        return work(given)
    words = list(sys.argv[1:] if argv is None else argv)
    command = [sys.executable, str(Path(__file__)), *words, "--work"]
    process = subprocess.Popen(command)
    try:
        return process.wait(timeout=given.minutes * 60)
    except subprocess.TimeoutExpired:
        log(given.out, f"the time limit of {given.minutes:g} minutes is reached")
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return 0
    except KeyboardInterrupt:
        process.kill()
        process.wait()
        return 130


def work(given: argparse.Namespace) -> int:
    """Run every unit whose table is not there."""
    start = time.monotonic()
    import torch

    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.stderr.write(
            "error: this machine has no CUDA device, or torch has no CUDA build; run it on a GPU, "
            "or try it with --device cpu --tiny\n"
        )
        return 2
    import gpu_units

    setting = gpu_units.Setting(
        device=device, tiny=given.tiny, data=given.data, out=given.out,
        deadline=start + given.minutes * 60,
    )  # fmt: skip
    parts = given.only.split(",") if given.only else [unit.part for unit in gpu_units.UNITS]
    if unknown := set(parts) - {unit.part for unit in gpu_units.UNITS}:
        sys.stderr.write(f"error: there is no part {sorted(unknown)}; the parts are a, b and c\n")
        return 2
    log(given.out, json.dumps(gpu_units.machine(setting)))
    for unit in gpu_units.UNITS:
        file = given.out / f"{unit.part}-{unit.name}.csv"
        if unit.part not in parts or file.exists():
            continue
        if missing := unit.missing(setting):
            log(given.out, f"{file.stem}: left out: {missing}")
            continue
        began = time.monotonic()
        try:
            table = unit.run(setting)
        except Exception:
            log(given.out, f"{file.stem}: failed\n{traceback.format_exc()}")
            continue
        half = file.with_suffix(".tmp")
        table.to_csv(half, index=False)
        half.replace(file)
        log(given.out, f"{file.stem}: {time.monotonic() - began:.1f} s\n{table.to_string()}")
    return 0


def log(out: Path, text: str) -> None:
    """Add to the log, and print."""
    line = f"{datetime.now(UTC):%H:%M:%S} {text}"
    print(line, flush=True)
    with (out / "log.txt").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
