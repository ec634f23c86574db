"""The command line: ``tl-taskneurons detect``, ``deactivate``, ``finetune`` and the rest."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from itertools import pairwise

from cyclopts import CycloptsError

from tl_taskneurons.runtime.errors import InputError, MissingPackageError, TaskNeuronsError

# Modules that register methods of their own are named by packages under this, or by --plugin.
_PLUGINS = "tl_taskneurons"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for a user's error, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _load_plugins(_values(given, "--plugin"))
        # After the plugins: what they register belongs to the help.
        from tl_taskneurons.cli.commands import run

        return run(given)
    except KeyboardInterrupt:
        out = _values(given, "--out")
        where = f" What is finished is in {out[-1]}." if out else ""
        return _fail(f"stopped.{where} Call the same command again to go on where it stopped.", 130)
    except CycloptsError as error:
        command = " ".join(["tl-taskneurons", *(error.command_chain or ())])
        return _fail(f"error: {error} (see {command} --help)", 2)
    except (TaskNeuronsError, OSError) as error:
        if "--debug" in given:
            raise
        return _fail(f"error: {error or type(error).__name__}", 2)


def _load_plugins(names: Sequence[str]) -> None:
    """Import the modules that register methods of their own."""
    for found in entry_points(group=_PLUGINS):
        found.load()
    for name in (part for value in names for part in value.split(",") if part):
        if name.startswith("."):
            raise InputError(f"--plugin is {name!r}; give the full name of a module.")
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:  # its own imports are its own business
                raise
            raise MissingPackageError(
                f"--plugin names {name!r}, and there is no such module; install it, or set "
                "PYTHONPATH to the folder that it lies in."
            ) from error


def _values(given: Sequence[str], option: str) -> list[str]:
    """What was given to an option, before anything else is known."""
    apart = [value for name, value in pairwise(given) if name == option]
    return apart + [word.partition("=")[2] for word in given if word.startswith(f"{option}=")]


def _fail(message: str, code: int) -> int:
    # Not through rich, which would wrap the line and obey markup; control characters are shown.
    line = " ".join(message.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    sys.stderr.write(f"{line}\n")
    return code
