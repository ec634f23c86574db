"""What signals at random moments do to commands that write, and exceptions to long work."""

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

import tl_taskneurons as tn
from tl_taskneurons.cli import main as command_line
from tl_taskneurons.runtime.table_files import read_json

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


def words(command: str, folder: Path) -> list[str]:
    """A command that writes to a folder."""
    return [command, *COMMANDS[command].replace("OUT", str(folder)).split()]


def begin(command: str, folder: Path) -> int:
    """Run a command in a child of this process, which has everything imported."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        code = command_line(words(command, folder))
    finally:
        os._exit(code)


def end(child: int) -> int:
    """Wait for a child; its exit code, or the signal that ended it as a negative number."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def results(folder: Path) -> dict[str, Any]:
    """What a folder holds, file by file, without the time it took."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(file.relative_to(folder))
        if file.name.startswith(".") or file.name.startswith(_PASSING):
            continue
        if file.suffix == ".parquet":
            frame = pd.read_parquet(file)
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


def kills(
    tries: int, draw: random.Random, names: tuple[str, ...] = tuple(COMMANDS)
) -> dict[str, Any]:
    """Signal commands at random moments, call them again, and compare with runs in one go."""
    counts = {"struck": 0, "other results": 0, "refused": 0, "left to delete": 0}
    timed: dict[str, list[str]] = {}
    differing: set[str] = set()
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        for number, command in enumerate(names):
            wholes, seconds = [], 0.0
            for k in range(2):
                folder = _prepared(command, place / f"{command}-{k}", place)
                start = time.perf_counter()
                code = end(begin(command, folder))
                seconds = time.perf_counter() - start
                if code:
                    raise RuntimeError(f"{command} ended with {code} where nothing was done to it")
                wholes.append(results(folder))
            # What differs between two runs in one go has the time of day in it.
            timed[command] = [n for n, value in wholes[0].items() if wholes[1].get(n) != value]
            whole = {n: value for n, value in wholes[0].items() if n not in timed[command]}
            for k in range(number, tries, len(names)):
                folder = _prepared(command, place / f"{command}-try-{k}", place)
                child = begin(command, folder)
                time.sleep(seconds * draw.random())
                os.kill(child, draw.choice(SIGNALS))
                counts["struck"] += end(child) != 0
                for leftover in folder.rglob(".*.tmp"):
                    os.utime(leftover, (0, 0))  # as if this process had begun later
                complete = command == "finetune" and (folder / "x.safetensors").exists()
                code = end(begin(command, folder))
                found = results(folder)
                others = [n for n in {*whole, *found} - {*timed[command]}
                          if found.get(n) != whole.get(n)]  # fmt: skip
                same = not others
                differing.update(f"{command}: {name}" for name in others)
                counts["refused"] += code != 0 and not (complete and same)
                counts["other results"] += not same
                counts["left to delete"] += left_over(folder)
                shutil.rmtree(folder)
    told = {"differing": sorted(differing)} if differing else {}
    return {"tries": tries, **counts, **told, "commands": list(names), "not compared": timed}


def _prepared(command: str, folder: Path, place: Path) -> Path:
    """A folder for a command; a report needs a run in it."""
    if command == "report":
        run = place / "run"
        if not run.exists() and end(begin("detect", run)):
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
