"""What a run folder says about itself: whose it is, what was given, what is done. No torch here."""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.table_files import read_json, write_json

RUN_FILE = "run.json"
# A copy of what a damaged and deleted run.json can't be made anew from.
_COPY = ".run.json"
_FORMAT = 1
_PACKAGES = [
    "tl-taskneurons",
    "transformer-lens",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "rouge-score",
]


def provenance() -> dict[str, Any]:
    """Return package versions, Python, platform and the time; no user names and no paths."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "time": _now(),
    }


def read_record(folder: Path) -> dict[str, Any]:
    """Return what a folder says about itself; empty where it says nothing.

    Raises:
        InputError: for a damaged file, or one of a version of this library that is not known.
    """
    for name in (RUN_FILE, _COPY):
        file = folder / name
        if file.exists():
            found = read_json(file)
            _require_structure(file, found)
            return found
    return {}


def write_record(folder: Path, record: Mapping[str, Any], *, copy: bool = False) -> None:
    """Write what a folder says about itself, and a copy in case the file is lost."""
    write_json(folder / RUN_FILE, record)
    if copy:
        write_json(folder / _COPY, record)


def begun(record: Mapping[str, Any], kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a folder's record with another session begun in it."""
    merged = {**record.get("arguments", {}), **arguments}
    session = {"status": "running", **provenance()}
    return {
        "format": _FORMAT,
        "kind": kind,
        "status": "running",
        "arguments": merged,
        "seeds": {name: merged[name] for name in merged if "seed" in name},
        "facts": record.get("facts", {}),
        "sessions": [*record.get("sessions", []), session],
        "units": record.get("units", {}),
        "files": record.get("files", []),
    }


def is_free(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether a run left nothing but its record: then another may begin in its folder."""
    left = [p for p in folder.iterdir() if p.name != RUN_FILE and not p.name.startswith(".")]
    return record.get("status") != "finished" and not (record.get("units") or left)


def require_kind(folder: Path, record: Mapping[str, Any], kind: str) -> None:
    """Refuse the folder of another command, before anything is done in it.

    Raises:
        InputError: naming both.
    """
    found = record.get("kind") or _kind_by_arguments(record["arguments"])
    if found not in (kind, None):
        raise InputError(
            f"{folder} holds the results of {found!r}, and this is {kind!r}; give another folder. "
            "Nothing in it was touched."
        )


def require_equal(folder: Path, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse the folder of a run with other settings.

    Raises:
        InputError: naming each setting that differs, with both values.
    """
    before, now = _flat(known), _flat(given)
    differing = [
        f"{name}: {before[name]!r} there, {now[name]!r} now"
        for name in now
        if name in before and before[name] != now[name]
    ]
    if differing:
        raise InputError(
            f"{folder} holds a run of another configuration ({'; '.join(differing)}); "
            "give another folder, or the same arguments as there."
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings inside settings by names like ``training.steps``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _kind_by_arguments(arguments: Mapping[str, Any]) -> str | None:
    """Whose folder it is, where it was written before folders said so."""
    if "experiment" in arguments:
        return arguments["experiment"]
    if "order" in arguments:
        return "run_sequence"
    return "detect/deactivate" if "data" in arguments else None


def _require_structure(file: Path, found: Any) -> None:
    parts = {"arguments": dict, "facts": dict, "units": dict, "sessions": list}
    if not isinstance(found, dict):
        problem = f"it holds a {type(found).__name__}"
    elif found.get("format", _FORMAT) != _FORMAT:
        raise InputError(
            f"{file} is of format {found.get('format')!r}, and this version of tl-taskneurons "
            f"knows {_FORMAT}; update it, or give another folder."
        )
    else:
        wrong = [name for name, kind in parts.items() if not isinstance(found.get(name), kind)]
        problem = f"{', '.join(wrong)} missing or of another type" if wrong else ""
    if problem:
        raise InputError(
            f"{file} is damaged or no record of a run ({problem}); delete it and call the same "
            "command again."
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
