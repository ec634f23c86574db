"""The commands ``detect``, ``deactivate``, ``info`` and ``report``."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table

from tl_taskneurons.cli.options import Flat, Out, Source, check_device, check_writable
from tl_taskneurons.cli.question import require_silencing
from tl_taskneurons.cli.settings import Detection, Settings
from tl_taskneurons.neurons.methods import METHODS
from tl_taskneurons.runtime.console import console, table
from tl_taskneurons.runtime.errors import InputError

if TYPE_CHECKING:
    from tl_taskneurons.models.view import ModelView

_DETECT_EXAMPLE = """\
example:
  tl-taskneurons detect --model smollm2-135m --tasks present_past,city_country \\
      --fraction 0.01 --selection plain,exclusive --limit 48 --out runs/first
  tl-taskneurons detect --model mini-llama --tasks mini_food,mini_news \\
      --limit 100 --out runs/mini

The folder gets neurons.parquet (one row per neuron), layers.parquet, scores/ and sets/ \
(safetensors, for NeuronScores.load and NeuronSet.load), layers-*.png and run.json. Call the same \
command again to go on where it was stopped.
"""
_DEACTIVATE_EXAMPLE = """\
example:
  tl-taskneurons deactivate --model smollm2-135m \\
      --tasks present_past,city_country --fraction 0.01 \\
      --selection plain,exclusive --limit 48 --test-limit 32 --out runs/first

Neurons that detect found in the same folder are used again. The folder gets \
deactivation_table.parquet (original, random, own neurons silenced, specificity), \
deactivation_matrix.parquet (tasks x tasks), deactivation_items.parquet (every answer), PNG \
figures and run.json. Call the same command again to go on where it was stopped.
"""
_INFO_EXAMPLE = """\
example:
  tl-taskneurons info --model smollm2-135m
  tl-taskneurons info --data my_tasks/
"""
_REPORT_EXAMPLE = """\
example:
  tl-taskneurons report runs/first

Writes runs/first/report.html: the run's facts, tables and figures, and a view to look through the \
neurons with the texts that excite them and the tokens they write. One file, which opens offline.
"""


def detect(settings: Annotated[Detection, Flat], *, out: Out) -> None:
    """Find each task's neurons."""
    if settings.ablation != "zero" and not METHODS.find(settings.method).asks:
        raise InputError(
            f"Method {settings.method!r} silences nothing, so ablation={settings.ablation!r} means "
            "nothing to it; use grad_act, say."
        )
    _study(Settings(**asdict(settings)), out, deactivating=False)


def deactivate(settings: Annotated[Settings, Flat], *, out: Out) -> None:
    """Silence each task's neurons and see what breaks."""
    require_silencing(settings.ablation)
    _study(settings, out, deactivating=True)


def _study(settings: Settings, out: Path, *, deactivating: bool) -> None:
    check_writable(out)
    from tl_taskneurons.cli import study as runs
    from tl_taskneurons.report.terminal import deactivation_report, detection_report, draw
    from tl_taskneurons.runtime.roles import current_role
    from tl_taskneurons.runtime.table_files import read_table

    with runs.open_study(settings, out, deactivating=deactivating, progress=True) as study:
        sets = runs.detect(study)
        tables = runs.deactivate(study, sets) if deactivating else {}
        current_role().wait()
        layers = read_table(study.run.file("layers.parquet"))
        files = draw(study.run, layers, tables)
        study.run.finish()
    screen = console()
    shown = detection_report(layers)
    if tables:
        shown += deactivation_report(tables["table"], wide=screen.width >= 110)
    for part in shown:
        screen.print(part)
    screen.print(f"Tables and sets are in {study.run.path}", soft_wrap=True)
    for file in files:
        screen.print(f"  {file}", soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class Shown(Source):
    """What to show.

    Attributes:
        model: a name, a Hugging Face id or folder, or a .gguf file; left out, only tasks are shown.
    """

    model: str = ""


def info(shown: Annotated[Shown, Flat] = Shown()) -> None:
    """Show a model's neurons and the tasks there are."""
    tasks = shown.read()
    screen = console()
    if shown.model:
        from tl_taskneurons.models.view import view

        screen.print(_model_table(view(shown.load())))
    rows = [
        (
            task.name, task.family, task.metric,
            ", ".join(task.labels) if len(task.labels) <= 6 else f"{len(task.labels)} labels",
            len(task.train), len(task.test),
        )
        for task in tasks
    ]  # fmt: skip
    headings = ("task", "family", "metric", "labels", "train", "test")
    screen.print(table(f"Tasks of {shown.data}", headings, rows, left=4))


def report(
    run: Annotated[Path, Parameter(name="RUN_DIR")], /, *, file: Path | None = None,
    neurons: int = 50, no_model: bool = False, device: str | None = None,
) -> None:  # fmt: skip
    """Write one HTML page of a run.

    Args:
        run: a folder that --out named.
        file: the page (default: RUN_DIR/report.html).
        neurons: how many to list for each task and selection.
        no_model: don't load the model: leave out what excites the neurons and what they write.
        device: cpu, cuda, cuda:1 ... (default: the first GPU, else the CPU).
    """
    check_device(device)
    from tl_taskneurons.report.page import write_report

    page = write_report(
        run, out=file, neurons=neurons, texts=not no_model, device=device, progress=True
    )
    console().print(f"The report is {page}", soft_wrap=True)


COMMANDS = {
    detect: _DETECT_EXAMPLE, deactivate: _DEACTIVATE_EXAMPLE, info: _INFO_EXAMPLE,
    report: _REPORT_EXAMPLE,
}  # fmt: skip


def _model_table(model: "ModelView") -> Table:
    parts = model.layers[0].parameters
    rows = {
        "class": "TransformerBridge" if model.is_bridge else "HookedTransformer",
        "layers": str(model.n_layers),
        "neurons per layer (d_mlp)": f"{model.d_mlp:,}",
        "neurons": f"{model.n_layers * model.d_mlp:,}",
        "gated": "yes" if model.gated else "no",
        "parameters": f"{sum(p.numel() for p in model.model.parameters()):,}",
        "dtype, device": f"{str(model.dtype).removeprefix('torch.')}, {model.device}",
        "fingerprint": model.fingerprint,
        "neuron hooks": f"{model.layers[0].hook} ... {model.layers[-1].hook}",
        "each layer's weights": ", ".join(
            f"{name} {list(part.oriented.shape)}" for name, part in parts.items()
        ),
    }
    made = table(f"Model {model.name}", ("what", "value"), rows.items(), left=2)
    made.columns[1].overflow = "fold"
    return made
