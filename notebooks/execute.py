"""Run notebooks from top to bottom and keep their outputs: ``python notebooks/execute.py``.

The kernel is this Python, in an empty folder and on one thread, so that outputs depend neither on
what is installed as a Jupyter kernel nor on the number of cores, and files that notebooks write
are gone afterwards. Times and other traces of a run are left out of the notebook.
"""

import argparse
import os
import sys
import tempfile
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).resolve().parent


class ThisPython(AsyncKernelManager):
    """A kernel of the Python that runs this, whatever kernels are registered."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """What to start."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


def execute(path: Path, *, settings: str = "", timeout: int = 1800) -> nbformat.NotebookNode:
    """Run a notebook and return it with new outputs; the file stays as it is.

    Args:
        path: the notebook.
        settings: code that is added to the cell with the tag ``parameters``: another model, say.
        timeout: seconds that a cell may take.

    Raises:
        CellExecutionError: for a cell that raises; the message has its code and the error.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if settings and "parameters" in cell.metadata.get("tags", ()):
            cell.source += f"\n{settings}"
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        work, profile = Path(folder) / "work", Path(folder) / "profile"
        work.mkdir()
        client = NotebookClient(
            notebook, timeout=timeout, kernel_manager_class=ThisPython, record_timing=False,
            resources={"metadata": {"path": str(work)}},
        )  # fmt: skip
        # The package of this checkout, also where it isn't installed.
        found = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            "PYTHONPATH": os.pathsep.join(found),
            "IPYTHONDIR": str(profile),
            "OMP_NUM_THREADS": "1",
            # Neither bars nor their wish for widgets belong in the outputs.
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONWARNINGS": "ignore:IProgress not found",
        }
        client.execute(env=os.environ | environment)
    _shrink_pictures(notebook)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _shrink_pictures(notebook: nbformat.NotebookNode) -> None:
    """Keep pictures in 256 colours, a third of the bytes."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                small = BytesIO()
                picture = Image.open(BytesIO(b64decode(data["image/png"]))).convert("RGB")
                picture.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
                data["image/png"] = b64encode(small.getvalue()).decode()


def main() -> None:
    """Run the notebooks in place."""
    parser = argparse.ArgumentParser(description="Run notebooks and keep their outputs.")
    parser.add_argument(
        "notebooks", nargs="*", type=Path, default=sorted(HERE.glob("*.ipynb")),
        help="default: all beside this file",
    )  # fmt: skip
    parser.add_argument("--settings", default="", help="code that ends the cell of settings")
    given = parser.parse_args()
    for path in given.notebooks:
        print(f"running {path.name}", flush=True)
        nbformat.write(execute(path, settings=given.settings), path)


if __name__ == "__main__":
    main()
