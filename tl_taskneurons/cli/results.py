"""Folders for the results of commands that are done in one go."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tl_taskneurons.runtime.console import console
from tl_taskneurons.runtime.run_folder import RunFolder
from tl_taskneurons.runtime.run_record import read_record

_KIND = "results"


@contextmanager
def results_folder(
    out: Path | None, command: str, arguments: Mapping[str, Any]
) -> Iterator[Callable[[str], Path] | None]:
    """Hold a folder for results, and say at the end where they are.

    A new folder gets a ``run.json``, which the report reads. Results may be added to the folder of
    a run that is there, whose record stays as it is.

    Args:
        out: the folder; None for a command that only prints.
        command: the command's name.
        arguments: what defines the results, plain JSON values.

    Yields:
        A function that gives the path of a file; None without a folder.
    """
    if out is None:
        yield None
        return
    record = read_record(out) if out.is_dir() else {}
    if record and (record["status"] == "finished" or record["kind"] != _KIND):
        yield out.joinpath
    else:
        with RunFolder.open(out, {"command": command, **arguments}, kind=_KIND) as run:
            yield run.file
            run.finish()
    console().print(f"Results are in {out}", soft_wrap=True)
