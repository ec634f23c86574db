"""What all benchmarks share: time in turn, peak memory in a process of its own, result files.

Times are seconds of processor time on one thread: other work on the machine would stretch the
clock's. Contenders run in turn, so a slow minute hits all of them, and a ratio is the median of
the ratios of each round. Memory is the peak of a process above what it held before the call, in
MiB (Linux only; elsewhere it is not a number).
"""

import argparse
import ctypes
import gc
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers  # noqa: F401 (imported once here, and not again in every forked process)
from targets import Target
from transformer_lens.model_bridge import sources  # noqa: F401

import tl_taskneurons as tn
from tl_taskneurons.runtime.run_record import provenance

RESULTS = Path(__file__).parent / "results"
QUICK_RESULTS = Path(tempfile.gettempdir()) / "tl-taskneurons-bench"
RIVALS = ("captum", "nnsight", "peft")
Times = dict[str, list[float]]


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every script has."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="a mini model, to see that it works")
    made.add_argument("--results", type=Path, help="where the result file goes")
    made.add_argument("--repeats", type=int, default=3, help="rounds that are timed")
    return made


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, **quick: Any
) -> argparse.Namespace:
    """Parse; ``--quick`` changes defaults, which other options still override."""
    if parser.parse_known_args(argv)[0].quick:
        parser.set_defaults(results=QUICK_RESULTS, repeats=1, **quick)
    given = parser.parse_args(argv)
    given.results = given.results or RESULTS
    return given


def apart(measure: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own, forked before this one has loaded a model."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork"), initializer=_start) as pool:
        return pool.submit(measure, *arguments).result()


def real_task(model: Any, name: str) -> Any:
    """Return a built-in task; for a mini model, which lacks its words, one of its own world."""
    if tn.view(model).name.startswith("mini"):
        return tn.load_tasks("mini", ["mini_scenes"])[0]
    return tn.load_tasks("builtin", [name])[0]


def _start() -> None:
    torch.set_num_threads(1)


def in_turn(runs: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> Times:
    """Return each function's processor seconds, one number for each round after the warm-up."""
    times: Times = {name: [] for name in runs}
    for turn in range(repeats + warm_up):
        print(f"  round {turn + 1} of {repeats + warm_up}", flush=True)
        for name, run in runs.items():
            seconds = timed(run)
            if turn >= warm_up:
                times[name].append(seconds)
    return times


def timed(run: Callable[[], object]) -> float:
    """Return the processor seconds of one call; earlier garbage is collected first."""
    gc.collect()
    start = time.process_time()
    run()
    return time.process_time() - start


def medians(times: Times) -> dict[str, float]:
    """Return the median seconds of each contender."""
    return {name: statistics.median(taken) for name, taken in times.items()}


def ratio(times: Times, name: str, unit: str) -> float:
    """Return the median over rounds of one contender's time in units of another's."""
    if name not in times or unit not in times:
        return math.nan
    return statistics.median(a / b for a, b in zip(times[name], times[unit], strict=True))


def ratios(times: Times, unit: str) -> dict[str, float]:
    """Return all contenders' times in units of one."""
    return {name: ratio(times, name, unit) for name in times}


def peak_of(make: Callable[[], Callable[[], object]], runs: int = 2) -> float:
    """Return the peak of this process above what it holds now, in MiB.

    Call it by ``apart``, after the weights are in memory. ``make`` counts too.
    """
    if not Path("/proc/self/clear_refs").exists():
        return math.nan
    _settle()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_kib("VmRSS")
    run = make()
    for _ in range(runs):
        run()
    return (_status_kib("VmHWM") - before) / 1024


def _settle() -> None:
    """Give freed memory back, in which a peak would hide, and load the libraries' own pages."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_mmap_threshold = -3
        libc.mallopt(m_mmap_threshold, 65536)
        libc.malloc_trim(0)
    madv_populate_read = 22
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[5].startswith("/") and "r" in fields[1]:
            start, end = (int(number, 16) for number in fields[0].split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), madv_populate_read)


def touch(model: torch.nn.Module) -> None:
    """Bring weights that still lie in a file into memory."""
    for weight in model.parameters():
        weight.detach().sum()


def tl_major() -> int:
    """Return the major version of TransformerLens."""
    return int(metadata.version("transformer-lens").split(".")[0])


def result_name(script: str) -> str:
    """Return a script's result name; under TransformerLens 4 it says so."""
    return script if tl_major() < 4 else f"{script}-tl{tl_major()}"


def write(
    script: str,
    given: argparse.Namespace,
    table: pd.DataFrame,
    targets: Sequence[Target],
    **more: Any,
) -> Path:
    """Print a table and its targets, and write them with the machine's description."""
    print(table.to_string(na_rep="-", float_format=lambda number: f"{number:.3g}"))
    for target in targets:
        sign = ">=" if target.at_least else "<="
        print(f"  {target.verdict}: {target.what}: {target.value:.3g} ({sign} {target.limit:g})")
    arguments = {k: v for k, v in vars(given).items() if k != "results"}
    content = {
        "arguments": arguments, "machine": machine(), **more, "table": table.to_dict("index"),
        "targets": [asdict(target) for target in targets],
    }  # fmt: skip
    given.results.mkdir(parents=True, exist_ok=True)
    out = given.results / f"{script}.json"
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n")
    temporary.replace(out)
    return out


def machine() -> dict[str, Any]:
    """Return processor, cores, memory and versions; no names and no paths."""
    facts = {key: value for key, value in provenance().items() if key != "time"}
    facts["versions"] = {**facts["versions"], **{name: _version(name) for name in RIVALS}}
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "threads": 1,
        **facts,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _status_kib(field: str) -> float:
    """A line of the kernel's account of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field))


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what was not measured is null."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
