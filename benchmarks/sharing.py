"""Two processes of one thread each beside one process with two threads.

    python benchmarks/sharing.py [--model smollm2-135m] [--examples 32] [--repeats 3]

torchrun starts two processes. In every round the first does each job alone with two threads while
the other one waits, then both share it. Seconds are the clock's, for that is what sharing is to
save, so the machine should be idle, and needs two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import measure
import pandas as pd
import torch
import torch.distributed as dist
from targets import Target

import tl_taskneurons as tn
from tl_taskneurons.runtime.roles import Role

TASK, N_PROCESSES = "present_past", 2
LEARNING_RATE = 1e-3


def jobs_of(model: Any, n: int) -> dict[str, Callable[[], object]]:
    """What is timed: functions that share their examples inside ``share_work``."""
    task = measure.real_task(model, TASK)
    neurons = tn.score_neurons(model, task, "random").top(fraction=0.10)
    training = tn.Training(lr=LEARNING_RATE, steps=1, batch_size=n)
    prompt = tn.Prompt(shots=2)
    return {
        "detection": partial(tn.score_neurons, model, task, limit=n, prompt=prompt),
        "evaluation": partial(tn.evaluate_items, model, task, limit=n, prompt=prompt),
        "training": partial(tn.finetune, model, task, neurons, training, prompt=prompt),
    }


def time_of(role: Role, run: Callable[[], object]) -> float:
    """Seconds until both processes are done; both start together."""
    role.wait()
    start = time.perf_counter()
    run()
    role.wait()
    return time.perf_counter() - start


def in_processes(given: argparse.Namespace) -> None:
    """What each of the processes does; the first one writes the times of all rounds."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")  # once, not at every opening of share_work
    model = tn.load_model(given.model, device="cpu")
    jobs = jobs_of(model, given.examples)
    times: dict[str, measure.Times] = {name: {"one": [], "two": []} for name in jobs}
    for turn in range(given.repeats + 1):
        for name, run in jobs.items():
            alone = time_alone(run)
            with tn.share_work() as team:
                shared = time_of(team, run)
            if turn > 0:  # the first round loads libraries
                times[name]["one"].append(alone)
                times[name]["two"].append(shared)
    if dist.get_rank() == 0:
        given.child.write_text(json.dumps(times))
    dist.destroy_process_group()


def time_alone(run: Callable[[], object]) -> float:
    """Seconds of the first process alone, with as many threads as there are processes."""
    if dist.get_rank() > 0:
        return 0.0
    torch.set_num_threads(N_PROCESSES)
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    torch.set_num_threads(1)
    return seconds


def measure_times(given: argparse.Namespace) -> dict[str, measure.Times]:
    """Start the processes; return each job's seconds in every round."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "times.json"
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
            str(N_PROCESSES), __file__, "--model", given.model, "--examples", str(given.examples),
            "--repeats", str(given.repeats), "--child", str(out),
        ]  # fmt: skip
        # torchrun sets one thread per process where nothing else is said, and warns of it.
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return json.loads(out.read_text())


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table; write it to the results."""
    parser = measure.parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = measure.parse(parser, argv, model="mini-llama", examples=8)
    if given.child is not None:
        in_processes(given)
        return
    del given.child
    times = measure_times(given)
    table = pd.DataFrame(
        {
            name: {
                "one process, s": measure.medians(rounds)["one"],
                "two processes, s": measure.medians(rounds)["two"],
                "two / one": measure.ratio(rounds, "two", "one"),
            }
            for name, rounds in times.items()
        }
    ).T
    targets = [
        Target(f"{name}: two processes / one with two threads", float(row["two / one"]), 1.0)
        for name, row in table.iterrows()
    ]
    print(f"{given.model}: {given.examples} examples of {TASK}")
    measure.write(measure.result_name("sharing"), given, table, targets, rounds=times)


if __name__ == "__main__":
    main()
