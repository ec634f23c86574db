"""The command ``export``: sets of neurons as lists that others can read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tl_taskneurons.cli.options import offer
from tl_taskneurons.neurons.methods import SELECTIONS
from tl_taskneurons.runtime.console import console
from tl_taskneurons.runtime.errors import InputError, MissingFileError

if TYPE_CHECKING:
    from tl_taskneurons.neurons.sets import NeuronSet

_EXPORT_EXAMPLE = """\
examples:
  tl-taskneurons export runs/first --out neurons.json
  tl-taskneurons export runs/first --selection exclusive --out neurons.csv
  tl-taskneurons export runs/found --out neurons.json

Takes the sets that detect or find wrote into a folder, or one file of NeuronSet.save. JSON has \
{"LAYER": [neuron, ...]} for each task, CSV the columns set, layer and neuron. finetune --neurons \
and tl_taskneurons.read_neurons read both, and lists that others published.
"""


def export(
    source: Annotated[Path, Parameter(name="FOLDER")], /, *,
    file: Annotated[Path, Parameter(name="--out")],
    selection: Annotated[str, Parameter(completer=offer(SELECTIONS))] = "plain",
) -> None:  # fmt: skip
    """Write sets of neurons as JSON or CSV.

    Args:
        source: a folder that detect or find wrote, or a file of one set.
        file: file to write, .json or .csv.
        selection: which of the sets that detect wrote.
    """
    if file.suffix.lower() not in (".json", ".csv"):
        raise InputError(f"--out is {str(file)!r}; give a file that ends in .json or .csv.")
    if file.exists():
        raise FileExistsError(f"{file} exists; give another file or remove it.")
    SELECTIONS.find(selection)
    from tl_taskneurons.neurons.lists import write_neurons

    sets = _sets(source, selection)
    write_neurons(sets, file)
    text = ", ".join(f"{name} {len(neurons):,}" for name, neurons in sets.items())
    console().print(f"Neurons of {text} are in {file}", soft_wrap=True)


def _sets(source: Path, selection: str) -> "dict[str, NeuronSet]":
    from tl_taskneurons.neurons.sets import NeuronSet
    from tl_taskneurons.runtime.tensor_files import stored_kind

    if source.is_file():
        one = NeuronSet.load(source)
        return {one.name or source.stem: one}
    sets = source / "sets"
    folder = sets / selection if sets.is_dir() else source
    found = [
        NeuronSet.load(file)
        for file in sorted(folder.glob("*.safetensors"))
        if stored_kind(file) == "NeuronSet"
    ]
    if not found:
        there = sorted(path.name for path in sets.glob("*"))
        raise MissingFileError(
            f"{source} has no sets of neurons"
            + (f" by the selection {selection!r} (it has {', '.join(there)})" if there else "")
            + "; give a folder that tl-taskneurons detect or find wrote."
        )
    return {one.name: one for one in found}


COMMANDS = {export: _EXPORT_EXAMPLE}
