"""What the command line's options take and say. No torch here: mistakes are told at once."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Parameter, Token
from cyclopts.completion._engine import CompletionContext

from tl_taskneurons.builtin.mini_models import mini_model_names
from tl_taskneurons.loading.names import check_model_name
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.runtime.errors import InputError

if TYPE_CHECKING:
    from tl_taskneurons.tasks.task import Tasks

T = TypeVar("T")


def split(_type: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Split names at commas."""
    return _distinct(_words(tokens), tokens)


def _words(tokens: Sequence[Token]) -> tuple[str, ...]:
    words = [word.strip() for token in tokens for word in token.value.split(",")]
    return tuple(word for word in words if word)


def _distinct(values: tuple[T, ...], tokens: Sequence[Token]) -> tuple[T, ...]:
    """Refuse a value given twice; what comes of both could not be told apart after all the work."""
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"{_option(tokens)} has {value} more than once; give it once.")
    return values


def _option(tokens: Sequence[Token]) -> str:
    return str(tokens[0].keyword).lstrip("-")


def listed(table: Mapping[str, Any]) -> str:
    """What each choice of a table says, for the help."""
    return "; ".join(f"{name}: {says}" for name, says in table.items())


def offer(names: Iterable[str]) -> Callable[[CompletionContext], list[str]]:
    """Offer names to the shell; in a list with commas, for what follows the last comma."""

    def complete(context: CompletionContext) -> list[str]:
        before, comma, _ = context.incomplete.rpartition(",")
        return [before + comma + name for name in names]

    return complete


def several(table: Mapping[str, Any], name: str | None = None, says: str = "") -> Parameter:
    """Return an option that takes names with commas between; the help lists all that there are.

    Args:
        table: name -> what it says.
        name: of the option, where it is not that of the field.
        says: what the names are for.
    """
    return Parameter(
        name=name, converter=split, n_tokens=1, accepts_keys=False, completer=offer(table),
        help=f"{says}one or several with commas between. {listed(table)}.",
    )  # fmt: skip


def numbers(kind: type[int] | type[float], name: str | None = None) -> Parameter:
    """Return an option that takes numbers with spaces or commas between.

    Args:
        kind: of numbers.
        name: of the option, where it is not that of the field.
    """

    def convert(_type: Any, tokens: Sequence[Token]) -> tuple[int | float, ...]:
        try:
            values = tuple(map(kind, _words(tokens)))
        except ValueError as error:
            given = " ".join(token.value for token in tokens)
            what = "whole numbers" if kind is int else "numbers"
            raise InputError(
                f"{_option(tokens)} is {given!r}; give {what} with spaces or commas between."
            ) from error
        return _distinct(values, tokens)

    return Parameter(name=name, converter=convert, consume_multiple=True, accepts_keys=False)


Names = Annotated[tuple[str, ...], Parameter(converter=split, n_tokens=1, accepts_keys=False)]
Many = Parameter(consume_multiple=True)
Out = Annotated[Path, Parameter(help="folder for the results.")]
Flat = Parameter(name="*")  # the fields of a dataclass are options of their own
Kind = Literal["bridge", "hooked"]
Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Which model and which tasks.

    Attributes:
        model: smollm2-135m, mini-llama or another mini model, a Hugging Face id or folder, or a
            .gguf file.
        kind: TransformerBridge, or HookedTransformer (TransformerLens 3.9 only).
        tasks: names with commas between, e.g. present_past,city_country.
        data: 'builtin', 'mini', 'hub', or a file or folder with your own tasks.
        columns: what your own data calls our fields, as input=question,target=answer.
        dtype: of the weights.
        device: cpu, cuda, cuda:1 ... (default: the first GPU, else the CPU).
    """

    model: str = "smollm2-135m"
    kind: Kind = "bridge"
    tasks: Names = ()
    data: str = "builtin"
    columns: Names = ()
    dtype: Dtype = "float32"
    device: str | None = None

    def __post_init__(self) -> None:
        """Refuse columns that say nothing."""
        self.mapping  # noqa: B018 - it checks

    @property
    def mapping(self) -> dict[str, str] | None:
        """The data's names of fields to ours, as ``load_tasks`` takes them."""
        pairs = [(word, *word.partition("=")[::2]) for word in self.columns]
        for word, ours, theirs in pairs:
            if not (ours and theirs):
                raise InputError(
                    f"columns has {word!r}; give our name, = and the name in your data, as "
                    "--columns input=question,target=answer."
                )
        return {theirs: ours for _, ours, theirs in pairs} or None

    def read(self, names: Sequence[str] | None = None, *, limit: int | None = None) -> "Tasks":
        """Load the tasks, by default those that were named."""
        return load_tasks(self.data, names or self.tasks or None, limit=limit, columns=self.mapping)

    def load(self) -> Any:
        """Load the model."""
        from tl_taskneurons.loading.models import load_model

        return load_model(self.model, kind=self.kind, dtype=self.dtype, device=self.device)


def usual_shots(model: str, shots: int | None) -> int:
    """The demonstrations to put into prompts: as asked for, else what suits the model."""
    if shots is not None:
        return shots
    return 0 if model.lower() in mini_model_names() else 4


def check_sources(
    data: str, tasks: Sequence[str], *models: str, columns: Mapping[str, str] | None = None
) -> None:
    """Refuse unknown tasks and models before torch is loaded.

    Raises:
        InputError: naming the nearest names.
        MissingFileError: for a path that isn't there.
    """
    for model in models:
        check_model_name(model)
    if not data.startswith("hub"):  # tasks of the hub are large, and are loaded once
        load_tasks(data, tasks or None, limit=1, columns=columns)


def check_device(device: str | None) -> None:
    """Refuse a device that isn't there.

    Raises:
        InputError: naming what there is.
    """
    if device is None or device == "cpu":
        return
    kind, _, number = device.partition(":")
    if not re.fullmatch(r"[a-z]+(:\d+)?", device):
        raise InputError(f"device is {device!r}; give cpu, cuda, cuda:1 or mps.")
    import torch

    if kind == "cuda":
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        found = f"{there} CUDA devices" if there else "no CUDA device"
        missing = int(number or 0) >= there
    else:
        found = "none of this kind"
        missing = not getattr(getattr(torch.backends, kind, None), "is_available", bool)()
    if missing:
        raise InputError(
            f"device is {device!r}, but PyTorch {torch.__version__} sees {found} here; use cpu."
        )


def check_writable(folder: Path) -> None:
    """Refuse a folder in which nothing can be written, before anything is computed.

    Raises:
        OSError: naming the folder.
    """
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(
            f"{there} is a file, so nothing can be written to {folder}; give a folder."
        )
    try:
        TemporaryFile(dir=there).close()
    except OSError as error:
        raise type(error)(f"nothing can be written to {folder}: {error.strerror}.") from error


def duration(seconds: float) -> str:
    """Write a time in its own unit."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def device_of(arguments: Iterable[Any]) -> str | None:
    """The device that a command's settings name."""
    return next((given.device for given in arguments if isinstance(given, Source)), None)


@contextmanager
def sharing(device: str | None, *, shares: bool) -> Iterator[None]:
    """Work with the other processes where torchrun started several; the first one prints."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    from tl_taskneurons.runtime.sharing import is_launched, share_work

    if not is_launched():
        yield
        return
    if not shares:
        raise InputError(
            "this command works in one process; call it without torchrun (detect, deactivate, "
            "finetune, apply and continual share their work)."
        )
    with share_work(device) as team, ExitStack() as stack:
        if not team.leads:
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
        yield
