"""The command ``export``: sets of neurons as lists that others can read."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tl_taskneurons.cli.options import offer
from tl_taskneurons.cli.sets import read_sets, set_files
from tl_taskneurons.neurons.methods import SELECTIONS
from tl_taskneurons.runtime.console import console
from tl_taskneurons.runtime.errors import InputError

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

    sets = read_sets(set_files(source, selection))
    write_neurons(sets, file)
    text = ", ".join(f"{name} {len(neurons):,}" for name, neurons in sets.items())
    console().print(f"Neurons of {text} are in {file}", soft_wrap=True)


COMMANDS = {export: _EXPORT_EXAMPLE}
