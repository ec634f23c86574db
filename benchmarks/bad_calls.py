"""How mistakes are told: bad calls of the Python API and the command line, by area.

    python benchmarks/bad_calls.py [--sample N] [--area NAME ...] [--results FOLDER]

The modules ``bad_calls_*`` list the calls; ``--sample`` takes every Nth of them. An outcome is

- clear: an error of this library (on the command line: one line and exit status 2) that names what
  was given and says what to do instead;
- obscure: such an error without one of these, or a built-in error;
- traceback: the command line ended by an exception of Python;
- silent: nothing was said. (A warning of this library says something.)
"""

import argparse
import contextlib
import io
import json
import re
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from bad_calls_exchange import exchange
from bad_calls_library import library
from bad_calls_loading import loading, plots
from bad_calls_search import deltas, searches, similarities
from bad_calls_shell import commands
from bad_calls_world import BadCall, World

from tl_taskneurons.cli import main as command_line
from tl_taskneurons.runtime.errors import TaskNeuronsError

REMEDY = re.compile(
    r"\b(use|uses?|give|gives|pass|must|needs?|choose|did you mean|load|loads|known|leave|add|call|"
    r"write|install|set|select|make|read|reads|it has|there are|try|take|taken|rename|detect|at "
    r"least|from \d|see|keep|drop|contrast|cache|expected|has only|only|looked|remove|nearest|"
    r"list|name|like|writes|fill|match|get|end|score|check|count|raise|allow)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Outcome:
    """What a bad call came to."""

    area: str
    call: str
    outcome: str
    message: str
    missing: tuple[str, ...] = ()


def python(call: BadCall, world: World) -> Outcome:
    """Make a bad call of the API."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = call.make(world)
    except Exception as error:
        told = isinstance(error, TaskNeuronsError)
        return judged(call, told, str(error), f"{type(error).__name__}: {error}")
    said = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    if said:
        return judged(call, True, "\n".join(said), f"warnings: {said}")
    return Outcome(call.area, call.text, "silent", repr(result)[:200])


def shell(call: BadCall, world: World) -> Outcome:
    """Make a bad call of the command line."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = command_line(call.words_of(world))
    except SystemExit as error:
        code = error.code
    except BaseException as error:
        return Outcome(call.area, call.text, "traceback", f"{type(error).__name__}: {error}")
    if code == 0:
        return Outcome(call.area, call.text, "silent", out.getvalue()[-200:])
    lines = [line for line in err.getvalue().splitlines() if line.startswith("error")]
    return judged(call, code == 2 and len(lines) == 1, "\n".join(lines), err.getvalue()[-400:])


def judged(call: BadCall, told: bool, message: str, shown: str) -> Outcome:
    """Say whether a message is clear."""
    missing = tuple(word for word in call.needs if word.lower() not in message.lower())
    if not REMEDY.search(message):
        missing += ("a remedy",)
    clear = told and not missing
    return Outcome(call.area, call.text, "clear" if clear else "obscure", shown[:600], missing)


def all_calls() -> list[BadCall]:
    """Every bad call."""
    calls = []
    kinds = (library, searches, similarities, deltas, exchange, loading, plots)
    rows = [row for kind in kinds for row in kind()]
    for area, function, good, parameters in rows:
        for name, values in parameters.items():
            for bad in values:

                def make(world: World, f=function, good=good, name=name, bad=bad) -> Any:
                    return f(**{**good(world), name: bad.get(world)})

                label = getattr(function, "__qualname__", str(function)).split(".")[-1]
                calls.append(BadCall(area, f"{label}({name}={bad.text})", bad.words, make))
    return [*calls, *commands()]


def main(arguments: list[str] | None = None) -> dict[str, Counter[str]]:
    """Make the calls, print what each came to, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sample", type=int, default=1, help="every Nth call")
    parser.add_argument("--area", nargs="+", help="these areas alone")
    parser.add_argument("--results", type=Path, help="folder for bad_calls.json")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for call in all_calls()[:: given.sample]:
            if given.area is None or call.area in given.area:
                outcomes.append((shell if call.shell else python)(call, world))
    counts = {name: Counter[str]() for name in dict.fromkeys(one.area for one in outcomes)}
    for one in outcomes:
        counts[one.area][one.outcome] += 1
        if one.outcome != "clear":
            print(f"{one.outcome}: {one.area}: {one.call}\n    {one.message}\n    {one.missing}")
    total = sum(counts.values(), Counter[str]())
    for name, count in {**counts, "total": total}.items():
        print(f"{name}: {count.total()} calls, {dict(count)}")
    print(f"{total['clear'] / max(1, total.total()):.1%} clear")
    if given.results is not None:
        given.results.mkdir(parents=True, exist_ok=True)
        file = given.results / "bad_calls.json"
        if given.area is None:
            file.unlink(missing_ok=True)
        _keep(file, counts, outcomes)
    return {**counts, "total": total}


def _keep(file: Path, counts: dict[str, Counter[str]], outcomes: list[Outcome]) -> None:
    """Write what calls came to, and leave what is there of other areas."""
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    areas = {**known.get("areas", {}), **counts}
    others = [one for one in known.get("not_clear", []) if one["area"] not in counts]
    content = {
        "command": "HF_HUB_OFFLINE=1 python benchmarks/bad_calls.py",
        "total": dict(sum(map(Counter, areas.values()), Counter[str]())), "areas": areas,
        "not_clear": [*others, *(asdict(one) for one in outcomes if one.outcome != "clear")],
    }  # fmt: skip
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    found = main()["total"]
    sys.exit(1 if found["silent"] or found["traceback"] else 0)
