"""The commands ``overlap`` and ``generate``, and how sets of neurons are read from files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from tl_taskneurons.cli.options import Flat, Many, check_writable, listed, offer
from tl_taskneurons.cli.question import require_silencing
from tl_taskneurons.cli.results import results_folder, with_digests
from tl_taskneurons.cli.search import Searched
from tl_taskneurons.cli.settings import require_at_least
from tl_taskneurons.neurons.methods import SELECTIONS
from tl_taskneurons.runtime.console import console, table
from tl_taskneurons.runtime.errors import InputError, MissingFileError
from tl_taskneurons.runtime.run_folder import file_name
from tl_taskneurons.runtime.table_files import write_csv

if TYPE_CHECKING:
    import pandas as pd

    from tl_taskneurons.models.protocol import LanguageModel
    from tl_taskneurons.neurons.sets import NeuronSet

_OVERLAP_EXAMPLE = """\
examples:
  tl-taskneurons overlap runs/second --selection plain --out runs/shared
  tl-taskneurons overlap one.safetensors two.safetensors

Compares sets pair by pair: those of a folder that detect wrote, or files of sets. --out gets \
overlap.csv and overlap.png.
"""
_GENERATE_EXAMPLE = """\
examples:
  tl-taskneurons generate --model smollm2-135m --tasks present_past \\
      --neurons runs/found/present_past.safetensors
  tl-taskneurons generate --model smollm2-135m --tasks present_past,city_country \\
      --fraction 0.01 --limit 48 --examples 4 --out runs/said

Answers to test examples undisturbed and with each task's neurons silenced, side by side. --out \
gets TASK_generations.csv; in the folder of a run they are added to its report.
"""
Selection = Annotated[
    str,
    Parameter(completer=offer(SELECTIONS), help=f"of a folder: which sets. {listed(SELECTIONS)}."),
]


def overlap(
    sets: Annotated[tuple[Path, ...], Parameter(name="SETS")], /, *, selection: Selection = "plain",
    out: Path | None = None,
) -> None:  # fmt: skip
    """Show which neurons sets share, and what chance would give.

    Args:
        sets: a folder that detect wrote, or files of sets (safetensors).
        selection: of a folder: which sets.
        out: folder for the table and its picture.
    """
    SELECTIONS.find(selection)
    if out is not None:
        check_writable(out)
    files = [file for path in sets for file in set_files(path, selection)]
    if len(files) < 2:
        raise InputError(f"There is only {files[0]} to compare; give at least two sets.")
    from tl_taskneurons import plots
    from tl_taskneurons.analysis.overlap import overlap as compare

    facts = {"sets": with_digests(files), "selection": selection}
    found = compare(read_sets(files))
    with results_folder(out, "overlap", facts) as file:
        console().print(_overlap_table(found))
        if file is not None:
            write_csv(file("overlap.csv"), found)
            plots.save(plots.overlap_heatmap(found), file("overlap.png"))


@dataclass(frozen=True, kw_only=True)
class Said(Searched):
    """What is answered, and which neurons are silenced.

    Attributes:
        neurons: sets to silence, each alone: files of sets (safetensors) or lists (JSON, CSV), or a
            folder that detect wrote (default: each task's top neurons, found on the fly).
        fraction: without --neurons: share of all neurons to find.
        examples: test examples of each task.
        max_new_tokens: the longest answer.
    """

    neurons: Annotated[tuple[Path, ...], Many] = ()
    selection: Selection = "plain"
    fraction: float = 0.01
    examples: int = 5
    max_new_tokens: int = 16

    def __post_init__(self) -> None:
        """Refuse what could not work, before any model is loaded."""
        super().__post_init__()
        require_at_least(self, examples=1, max_new_tokens=1)
        SELECTIONS.find(self.selection)
        if not 0 < self.fraction <= 1:
            raise InputError(f"fraction is {self.fraction}; it must be in (0, 1].")
        require_silencing(self.ablation)


def generate(said: Annotated[Said, Flat] = Said(), *, out: Path | None = None) -> None:
    """Show answers with and without neurons, side by side.

    Args:
        said: model, tasks, and the neurons to silence.
        out: folder for the answers.
    """
    tasks = said.listed(1, "whose test examples are answered")
    files = [file for path in said.neurons for file in set_files(path, said.selection)]
    if out is not None:
        check_writable(out)
    from tl_taskneurons.analysis.generations import compare_generations
    from tl_taskneurons.models.inputs import Data
    from tl_taskneurons.neurons.attribution import activation_mean, score_neurons
    from tl_taskneurons.neurons.selection import select

    facts = {**said.facts(), "neurons": with_digests(files)}
    with results_folder(out, "generate", facts, tasks.names) as file:
        model = said.load()
        given = read_sets(files, model)
        if given:
            sets = {name: _in_layers(chosen, said.layers) for name, chosen in given.items()}
        else:
            scores = {
                task.name: score_neurons(
                    model, task, prompt=said.prompt, limit=said.limit, **said.scoring()
                )
                for task in tasks
            }
            sets = select(scores, said.selection, said.fraction)
        silenced = {f"without {name}": chosen for name, chosen in sets.items()}
        data = Data(split="test", prompt=said.prompt, limit=said.examples)
        for task in tasks:
            ablation: Any = said.ablation
            if ablation == "mean":
                ablation = activation_mean(model, task, prompt=said.prompt, limit=said.limit)
            answers = compare_generations(
                model, task, silenced, data=data, max_new_tokens=said.max_new_tokens,
                ablation=ablation, positions=said.place,
            )  # fmt: skip
            console().print(_answers(task.name, answers))
            if file is not None:
                write_csv(file(f"{file_name(task.name)}_generations.csv"), answers)


def set_files(path: Path, selection: str) -> list[Path]:
    """Return the files of sets that a path stands for: itself, or those in a folder.

    Raises:
        MissingFileError: for a path that isn't there, or a folder without sets.
    """
    if not path.is_dir():
        if not path.exists():
            raise MissingFileError(
                f"There is no file or folder {path}; give what detect, find or NeuronSet.save "
                "wrote."
            )
        return [path]
    folder = path / "sets" / selection
    if (path / "sets").is_dir() and not folder.is_dir():
        there = sorted(found.name for found in (path / "sets").iterdir())
        raise MissingFileError(
            f"{path} has no sets by the selection {selection!r} (it has "
            f"{', '.join(there) or 'none'}); give --selection."
        )
    files = sorted((folder if folder.is_dir() else path).glob("*.safetensors"))
    if not files:
        raise MissingFileError(
            f"{path} holds no sets; give a folder that tl-taskneurons detect or find wrote, or "
            "files of sets."
        )
    return files


def read_sets(files: list[Path], model: "LanguageModel | None" = None) -> "dict[str, NeuronSet]":
    """Read sets, by their names, or by those of their files where names are not told apart.

    Args:
        files: of sets; with a model, lists of neurons (JSON, CSV) too.
        model: what the lists are of.
    """
    from tl_taskneurons.neurons.lists import read_sets as read_lists
    from tl_taskneurons.neurons.sets import NeuronSet

    found: list[tuple[str, str, NeuronSet]] = []
    for file in files:
        if file.suffix.lower() in (".json", ".csv"):
            if model is None:
                raise InputError(
                    f"{file} is a list of neurons, which says nothing of their model; give files "
                    "of sets (safetensors)."
                )
            found += [(name, file.stem, one) for name, one in read_lists(model, file).items()]
        else:
            one = NeuronSet.load(file)
            found.append((one.name or file.stem, file.stem, one))
    for names in ([name for name, _, _ in found], [stem for _, stem, _ in found]):
        if len(set(names)) == len(names):
            return dict(zip(names, (one for _, _, one in found), strict=True))
    return {f"{name} #{k}": one for k, (name, _, one) in enumerate(found)}


def _in_layers(chosen: "NeuronSet", layers: tuple[int, ...] | None) -> "NeuronSet":
    if layers is None:
        return chosen
    from tl_taskneurons.neurons.sets import NeuronSet

    n_layers = chosen.mask.shape[0]
    if max(layers) >= n_layers:
        raise InputError(f"layers has {max(layers)}, but the model has the layers 0 to "
                         f"{n_layers - 1}.")  # fmt: skip
    mask = chosen.mask.clone()
    mask[[layer for layer in range(n_layers) if layer not in layers]] = False
    if not mask.any():
        raise InputError(f"{chosen!r} has no neuron in the layers {list(layers)}.")
    return NeuronSet(mask, chosen.fingerprint, chosen.name, chosen.info)


def _overlap_table(found: "pd.DataFrame") -> Table:
    rows = [
        (
            row["task_x"], row["task_y"], f"{row['n_x']:,}", f"{row['n_y']:,}",
            f"{row['shared']:,}", f"{row['iou']:.1%}", f"{row['expected_iou']:.1%}",
            f"{row['p_holm']:.2g}",
        )
        for row in found.to_dict("records")
    ]  # fmt: skip
    headings = ("set", "and", "n", "n", "shared", "overlap", "chance", "p (Holm)")
    made = table("Shared neurons, of those in either set", headings, rows, left=2)
    made.columns[0].overflow = made.columns[1].overflow = "fold"
    return made


def _answers(name: str, answers: "pd.DataFrame") -> Table:
    rows = answers.map(lambda text: str(text).strip()).to_numpy().tolist()
    made = table(f"Answers to {name}", list(answers.columns), rows, left=answers.shape[1])
    for column in made.columns:
        column.overflow = "fold"
    made.show_lines = True
    return made


COMMANDS = {overlap: _OVERLAP_EXAMPLE, generate: _GENERATE_EXAMPLE}
