"""What signals at random moments do to commands that write, and exceptions to long work."""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import tl_taskneurons as tn
from tl_taskneurons.cli import main as command_line
from tl_taskneurons.runtime.table_files import read_json, read_table

_TWO = "--model mini-llama-base --data mini --tasks mini_film,mini_food"
_SHORT = "--limit 6 --test-limit 4"
# Tiny runs: a file in place of the folder where the command writes one; RUN is detect's folder.
COMMANDS: Mapping[str, str] = {
    "detect": f"{_TWO} --limit 6 --out OUT",
    "deactivate": f"{_TWO} {_SHORT} --controls 1 --out OUT",
    "finetune": f"{_TWO} {_SHORT} --steps 6 --checkpoint-every 1 --out OUT/x.safetensors",
    "continual": f"{_TWO} {_SHORT} --steps 2 --out OUT",
    "find": "--model mini-llama --data mini --tasks mini_film,mini_food --limit 8 --out OUT",
    "curves": f"{_TWO} --limit 2 --out OUT",
    "report": "OUT --no-model",
    "reproduce": "--model mini-llama --preset smoke --only table8 --out OUT",
}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
# What says how long something took, and what is written beside results.
_TIMES = ["seconds", "peak_mib"]
_PASSING = ("run.json", ".checksums")


# What commands import when they need it; children find it imported.
_IMPORTS = ("scipy.stats", "matplotlib.figure", "tl_taskneurons.continual",
            "tl_taskneurons.evaluation.evaluate", "tl_taskneurons.cli.commands",
            "tl_taskneurons.analysis.search", "tl_taskneurons.report", "transformers",
            "tl_taskneurons.experiments.reproduce", "tl_taskneurons.loading.models",
            "tl_taskneurons.plots.ablation_curves")  # fmt: skip


def imported() -> None:
    """Import what commands need, so that the time of children goes into their work."""
    torch.set_num_threads(1)  # threads are lost in a fork
    for name in _IMPORTS:
        import_module(name)


def words(command: str, folder: Path) -> list[str]:
    """A command that writes to a folder."""
    return [command, *COMMANDS[command].replace("OUT", str(folder)).split()]


def start(command: str, folder: Path, first: Callable[[], None] | None = None) -> int:
    """Run a command in a child of this process, which has everything imported.

    Args:
        command: its name.
        folder: where it writes; what it says goes to a file beside.
        first: what the child does before.
    """
    # Ctrl-C before the child's `try` would run the rest of this program in it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = os.fork()
    if child:
        signal.signal(signal.SIGINT, before)
        return child
    code = 99
    try:
        said = os.open(_said(folder), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if first is not None:
            first()
        code = command_line(words(command, folder))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """Wait for a child; its exit code, or the signal that ended it as a negative number."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def output_of(folder: Path) -> str:
    """The end of what the last command said that was run in a folder."""
    return _said(folder).read_text(encoding="utf-8", errors="replace")[-500:]


def _said(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.said")


def results(folder: Path) -> dict[str, Any]:
    """What a folder holds, file by file, without the time it took."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(file.relative_to(folder))
        if file.name.startswith(".") or file.name.startswith(_PASSING):
            continue
        if file.suffix == ".parquet":
            frame = read_table(file)  # without threads, which a fork would lose
            found[name] = frame.drop(columns=_TIMES, errors="ignore").to_csv()
        elif file.suffix == ".json":
            found[name] = untimed(read_json(file))
        else:
            found[name] = file.read_bytes()
    return found


def untimed(value: Any) -> Any:
    """A value of JSON without the entries that say how long something took."""
    if isinstance(value, dict):
        return {key: untimed(one) for key, one in value.items() if key not in _TIMES}
    return [untimed(one) for one in value] if isinstance(value, list) else value


def left_over(folder: Path) -> int:
    """How many temporary files there are."""
    return sum(path.name.endswith((".tmp", ".part", ".checkpoint")) for path in folder.rglob("*"))


def age_leftovers(folder: Path) -> None:
    """Make what a killed process left look as if this process had begun later."""
    for leftover in folder.rglob(".*.tmp"):
        os.utime(leftover, (0, 0))


def kills(
    tries: int, draw: random.Random, names: tuple[str, ...] = tuple(COMMANDS)
) -> dict[str, Any]:
    """Signal commands at random moments, call them again, and compare with runs in one go."""
    counts = {"struck": 0, "other results": 0, "refused": 0, "left to delete": 0}
    timed: dict[str, list[str]] = {}
    failures: list[dict[str, Any]] = []
    imported()
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        for number, command in enumerate(names):
            wholes, seconds = [], 0.0
            for k in range(2):
                folder = prepared(command, place / f"{command}-{k}", place)
                began = time.perf_counter()
                code = wait(start(command, folder))
                seconds = time.perf_counter() - began
                if code:
                    raise RuntimeError(f"{command} ended with {code} where nothing was done to it")
                wholes.append(results(folder))
            # What differs between two runs in one go has the time of day in it.
            timed[command] = [n for n, value in wholes[0].items() if wholes[1].get(n) != value]
            whole = {n: value for n, value in wholes[0].items() if n not in timed[command]}
            for k in range(number, tries, len(names)):
                folder = prepared(command, place / f"{command}-try-{k}", place)
                child = start(command, folder)
                time.sleep(seconds * draw.random())
                os.kill(child, draw.choice(SIGNALS))
                counts["struck"] += wait(child) != 0
                age_leftovers(folder)
                complete = command == "finetune" and (folder / "x.safetensors").exists()
                code = wait(start(command, folder))
                found = results(folder)
                others = [n for n in {*whole, *found} - {*timed[command]}
                          if found.get(n) != whole.get(n)]  # fmt: skip
                same = not others
                counts["refused"] += code != 0 and not (complete and same)
                counts["other results"] += not same
                counts["left to delete"] += left_over(folder)
                if not same or (code and not complete):
                    failures.append({"command": command, "code": code, "differing": sorted(others),
                                     "said": output_of(folder)})  # fmt: skip
                shutil.rmtree(folder)
    told = {"failures": failures} if failures else {}
    return {"tries": tries, **counts, **told, "commands": list(names), "not compared": timed}


def prepared(command: str, folder: Path, place: Path) -> Path:
    """A folder for a command; a report needs a run in it."""
    if command == "report":
        run = place / "run"
        if not run.exists() and wait(start("detect", run)):
            raise RuntimeError("detect failed, so there is nothing to report")
        shutil.copytree(run, folder)
    return folder


def work(model: Any, neurons: tn.NeuronSet) -> list[Callable[[], AbstractContextManager[Any]]]:
    """Calls that run the model: training, trained weights for a while, evaluation, generation."""
    (task,) = tn.load_tasks("mini", ["mini_film"], limit=4)
    training = tn.Training(steps=2, batch_size=2)
    delta = tn.finetune(model, task, neurons, training)

    def generated() -> Any:
        return tn.evaluate(model, task, limit=2, generation=True, max_new_tokens=3)

    @contextmanager
    def done(call: Callable[[], Any]) -> Iterator[None]:
        call()
        yield

    return [
        lambda: done(lambda: tn.finetune(model, task, neurons, training)),
        lambda: delta.applied(model), lambda: done(lambda: tn.evaluate(model, task, limit=2)),
        lambda: done(generated), lambda: done(lambda: tn.score_neurons(model, task, limit=2)),
    ]  # fmt: skip
