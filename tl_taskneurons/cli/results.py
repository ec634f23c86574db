"""Folders for the results of commands that are done in one go."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tl_taskneurons.runtime.console import console
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.run_folder import RunFolder, held
from tl_taskneurons.runtime.run_record import read_record, require_equal, require_kind

_KIND = "results"
_OTHERS = ("detect/deactivate",)  # kinds of folders that results may be added to


@contextmanager
def results_folder(
    out: Path | None, command: str, arguments: Mapping[str, Any], tasks: Sequence[str] = ()
) -> Iterator[Callable[[str], Path] | None]:
    """Hold a folder for results, and say at the end where they are.

    A new folder gets a ``run.json``, which the report reads. Results may be added to the folder of
    a run of detect that is there, and to finished results. The record notes what every command got
    for each task: the same is made anew by the same arguments only.

    Args:
        out: the folder; None for a command that only prints.
        command: the command's name.
        arguments: what defines the results, plain JSON values.
        tasks: those that files are written of; none for files of all tasks together.

    Yields:
        A function that gives the path of a file; None without a folder.

    Raises:
        ValueError: for the folder of another command or another model, or of the same command with
            other arguments. Nothing was touched then.
        OSError: where another process writes to the folder.
    """
    if out is None:
        yield None
        return
    given = json.loads(json.dumps(dict(arguments)))
    noted = {" ".join(filter(None, (command, task))): given for task in tasks or ("",)}
    record = read_record(out) if out.is_dir() else {}
    if record and (record["status"] == "finished" or record["kind"] != _KIND):
        with held(out):
            run = RunFolder(out, resumed=True)
            _require_fitting(out, run.read(), command, arguments)
            require_equal(out, run.read()["facts"], noted)
            yield run.file
            run.confirm(**noted)
    else:
        with RunFolder.open(out, {"command": command, **arguments}, kind=_KIND) as run:
            yield run.file
            run.confirm(**noted)
            run.finish()
    console().print(f"Results are in {out}", soft_wrap=True)


def with_digests(files: Sequence[Path]) -> list[str]:
    """Names of files and the beginnings of their digests: one name may stand for other content."""
    return [f"{path.name} ({hashlib.sha256(path.read_bytes()).hexdigest()[:12]})" for path in files]


def _require_fitting(
    out: Path, record: Mapping[str, Any], command: str, arguments: Mapping[str, Any]
) -> None:
    """Refuse a folder whose results another command or another model made."""
    if record.get("kind") not in (None, _KIND, *_OTHERS):
        require_kind(out, record, command)
    known, model = record["arguments"].get("model"), arguments.get("model")
    if None not in (known, model) and known != model:
        raise InputError(
            f"{out} holds results of the model {known!r}, and this is {model!r}; give another "
            "folder. Nothing in it was touched."
        )
