"""What exceptions, kills, flipped bits and full disks leave over, lose, or make us believe.

    python benchmarks/robustness.py [--full] [--only NAME ...] [--results FOLDER]

``--full`` takes the published numbers of tries, else a tenth. Every try is drawn from seed 0.

- injections: an exception at a random line of this library, or Ctrl-C at a random moment, inside a
  context manager that changes a model; left over is whatever the model has not got back.
- injections at work: the same inside training, evaluation, generation, scoring.
- kills: a run folder's writer ends by SIGKILL at a random moment; the resumed run must give the
  bytes of a run in one go, and leave no file to delete by hand.
- states: the same in every state that a kill can leave of such a run.
- states of commands: every command that writes is called in states that a kill can leave of it: 6
  of each, drawn at random, of ``continual`` all; see ``robustness_states``.
- kills of commands: every command that writes gets a signal at a random moment and is called
  again; results must be those of a run in one go.
- flips: one bit of a file; named means that reading raises an error with the file's name.
- disks: a write that fails for want of room; told means one line with the file's name.
"""

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from robustness_commands import age_leftovers, work
from robustness_commands import kills as kills_of_commands
from robustness_states import every_state, states_of_a_run

import tl_taskneurons
from tl_taskneurons import NeuronSet, deactivate, load_model
from tl_taskneurons.models.checkpointing import gradient_checkpointing
from tl_taskneurons.models.forward import frozen
from tl_taskneurons.runtime.errors import FileError
from tl_taskneurons.runtime.run_folder import RunFolder
from tl_taskneurons.runtime.table_files import (
    read_csv,
    read_json,
    read_table,
    write_csv,
    write_json,
    write_table,
)
from tl_taskneurons.runtime.tensor_files import load_tensors, save_tensors

FRAME = pd.DataFrame({"task": ["a", "b"] * 20, "value": [0.5, 1.25] * 20})
TENSORS = {"x": torch.arange(60.0).reshape(6, 10)}
KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "t.parquet": (lambda path: write_table(path, FRAME), read_table),
    "t.csv": (lambda path: write_csv(path, FRAME), read_csv),
    "t.json": (lambda path: write_json(path, {"a": [1, 2.5, "x"]}), read_json),
    "t.safetensors": (
        lambda path: save_tensors(path, "Thing", TENSORS, {}),
        lambda path: load_tensors(path, "Thing"),
    ),
}
PACKAGE = str(Path(tl_taskneurons.__file__).parent)


class Injected(BaseException):
    """What is raised at a random line."""


def state(model: Any) -> list[Any]:
    """What a context manager must give back: weights, flags, modes, hooks, global state."""
    return [
        [float(p.detach().double().sum()) for p in model.parameters()],
        [p.requires_grad for p in model.parameters()],
        [m.training for m in model.modules()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        ["forward" in vars(m) for m in model.modules()],
        signal.getsignal(signal.SIGINT), torch.is_grad_enabled(), torch.get_num_threads(),
        # beartype, in the tests, draws by it which items of a list it checks.
        torch.get_rng_state().tolist(), "beartype" in sys.modules or random.getstate(),
        torch.get_default_dtype(),
        torch.get_default_device(), torch.are_deterministic_algorithms_enabled(),
    ]  # fmt: skip


def use(manager: Callable[[], AbstractContextManager[Any]]) -> None:
    """Open and leave a context manager."""
    with manager():
        sum(range(200))


def lines(call: Callable[[], None], at: int | None = None) -> int:
    """Count the lines of this library that a call runs; raise at one of them."""
    seen = 0

    def trace(frame: Any, event: str, _argument: object) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.startswith(PACKAGE) or _collects(frame):
            return None
        if event == "line":
            seen += 1
            if seen == at:
                raise Injected
        return trace

    sys.settrace(trace)
    try:
        with suppress(Injected):
            call()
    finally:
        sys.settrace(None)
    return seen


def _collects(frame: Any) -> bool:
    """Whether a frame runs for a ``__del__``, from which nothing can be raised."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


Managers = list[Callable[[], AbstractContextManager[Any]]]


def injections(tries: int, draw: random.Random) -> dict[str, int]:
    """Strike inside context managers that change a model; half of the tries asynchronously."""
    model = load_model("mini-llama")
    neurons = NeuronSet.from_pairs(model, [(0, 1), (1, 2), (1, 7)])
    managers: Managers = [
        partial(frozen, model), partial(deactivate, model, neurons),
        partial(deactivate, model, neurons, how="weights"), partial(gradient_checkpointing, model),
    ]  # fmt: skip
    return strike(model, managers, tries, draw)


def injections_at_work(tries: int, draw: random.Random) -> dict[str, int]:
    """Strike inside training, applied differences, evaluation, generation and scoring."""
    model = load_model("mini-llama-base", device="cpu")
    neurons = NeuronSet.from_pairs(model, [(0, 1), (1, 2), (1, 7)])
    return strike(model, work(model, neurons), tries, draw)


def strike(model: Any, managers: Managers, tries: int, draw: random.Random) -> dict[str, int]:
    """Strike at random, and count how often the model or global state isn't as before."""
    before, left = state(model), 0
    n_lines: dict[int, int] = {}
    for k in range(tries):
        which = k // 2 % len(managers)
        call = partial(use, managers[which])
        if k % 2:
            n_lines[which] = n_lines.get(which) or lines(call)
            lines(call, at=draw.randrange(1, n_lines[which] + 1))
        else:
            start = time.perf_counter()
            call()
            seconds = time.perf_counter() - start
            try:
                signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
                signal.setitimer(signal.ITIMER_REAL, max(1e-6, seconds * draw.random()))
                call()
                time.sleep(seconds)  # where it has not struck yet
            except KeyboardInterrupt:
                pass
            signal.setitimer(signal.ITIMER_REAL, 0)
        left += state(model) != before
    return {"tries": tries, "left over": left}


def write_run(folder: Path, n_units: int = 20) -> None:
    """What is killed: a run of small units that ends with a table."""
    with RunFolder.open(folder, {"seed": 0}, kind="robustness") as run:
        frames = [run.unit(f"u{k}", lambda k=k: FRAME.assign(k=k)) for k in range(n_units)]
        table = pd.concat(frames, ignore_index=True)
        run.publish({"all.parquet": lambda path: write_table(path, table)})
        run.finish()


def kills(tries: int, draw: random.Random) -> dict[str, int]:
    """End writers at random moments, go on, and compare with a run in one go."""
    differing = by_hand = struck = 0
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        write_run(Path(place) / "whole")
        seconds = time.perf_counter() - start
        whole = (Path(place) / "whole" / "all.parquet").read_bytes()
        for k in range(tries):
            folder = Path(place) / str(k)
            child = os.fork()
            if child == 0:
                write_run(folder)
                os._exit(0)
            time.sleep(seconds * draw.random())
            os.kill(child, signal.SIGKILL)
            struck += os.waitpid(child, 0)[1] != 0
            age_leftovers(folder)
            write_run(folder)
            differing += (folder / "all.parquet").read_bytes() != whole
            by_hand += len(list(folder.rglob(".*.tmp")))
    return {"tries": tries, "struck": struck, "other bytes": differing, "left to delete": by_hand}


def states(_tries: int, _draw: random.Random) -> dict[str, int]:
    """Go on in every state that a kill can leave."""
    return states_of_a_run(partial(write_run, n_units=3))


def flips(tries: int, draw: random.Random) -> dict[str, int]:
    """Flip single bits of files of every kind."""
    named = 0
    with tempfile.TemporaryDirectory() as place:
        for k in range(tries):
            name, (write, read) = list(KINDS.items())[k % len(KINDS)]
            file = Path(place) / name
            write(file)
            content = bytearray(file.read_bytes())
            bit = draw.randrange(8 * len(content))
            content[bit // 8] ^= 1 << bit % 8
            file.write_bytes(content)
            try:
                read(file)
            except ValueError as error:
                named += name in str(error)
    return {"tries": tries, "named": named}


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def disks(tries: int, draw: random.Random) -> dict[str, int]:
    """Let writes fail for want of room at random sizes."""
    told = 0
    with tempfile.TemporaryDirectory() as place:
        for k in range(tries):
            name, (write, _) = list(KINDS.items())[k % len(KINDS)]
            try:
                with room_for(draw.randrange(60)):
                    write(Path(place) / name)
            except FileError as error:
                told += name in str(error) and "\n" not in str(error)
            told -= len(list(Path(place).glob(".*.tmp")))
    return {"tries": tries, "told in one line": told}


MEASURES: dict[str, tuple[Callable[[int, random.Random], dict[str, Any]], int]] = {
    "injections": (injections, 1500), "injections at work": (injections_at_work, 100),
    "kills": (kills, 100), "states": (states, 1), "states of commands": (every_state, 6),
    "states of continual": (partial(every_state, names=("continual",)), 1000),
    "kills of commands": (kills_of_commands, 32), "flips": (flips, 160), "disks": (disks, 40),
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write ``robustness.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", nargs="*", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--results", type=Path)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    found = {}
    for name in given.only:
        measure, tries = MEASURES[name]
        found[name] = measure(tries if given.full else tries // 10, random.Random(0))
        print(name, found[name], flush=True)
        if given.results is not None:
            _keep(given.results / "robustness.json", found)


def _keep(file: Path, found: dict[str, Any]) -> None:
    """Write what was found, and leave what is there of other measures."""
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    text = json.dumps({**known, "command": "benchmarks/robustness.py --full", **found}, indent=2)
    file.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
