"""Run the benchmarks in order, in one process, and end with the targets met and missed.

python benchmarks/suite.py [attribution evaluation ...] [--quick] [--results FOLDER]
"""

import importlib
import time
from collections.abc import Sequence

import measure
import summary

SCRIPTS = (
    "attribution", "evaluation", "growth", "similarity", "training", "sharing", "large",
    "report", "launches", "methods_cost", "sequences", "harness",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Run the scripts that are named, by default all of them."""
    parser = measure.parser(__doc__)
    parser.add_argument("scripts", nargs="*", metavar="script", help=", ".join(SCRIPTS))
    given = measure.parse(parser, argv)
    unknown = sorted(set(given.scripts) - set(SCRIPTS))
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are {', '.join(SCRIPTS)}")
    options = ["--results", str(given.results), "--repeats", str(given.repeats)]
    if given.quick:
        options.append("--quick")
    for name in given.scripts or SCRIPTS:
        print(f"== {name}", flush=True)
        start = time.perf_counter()
        importlib.import_module(name).main(options)
        print(f"== {name} took {time.perf_counter() - start:.0f} s", flush=True)
    summary.main(["--results", str(given.results)])


if __name__ == "__main__":
    main()
