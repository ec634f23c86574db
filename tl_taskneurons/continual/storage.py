"""What stages leave behind, on disk: a folder per stage, found again by all that decides it."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tl_taskneurons.continual.learners import Delta, Learner, Piece, Setting
from tl_taskneurons.continual.memory import peak_memory
from tl_taskneurons.runtime.run_folder import file_name
from tl_taskneurons.runtime.table_files import read_json, write_json
from tl_taskneurons.runtime.tensor_files import load_tensor, load_tensors, save_tensor, save_tensors
from tl_taskneurons.tasks.task import tasks_digest
from tl_taskneurons.training.deltas import LoraDelta, NeuronDelta, WeightDelta

_HEADER = ("fingerprint", "name", "info")


class Store:
    """Learns pieces and keeps them, in memory, and in a folder where one is given.

    A folder may be shared by rows of other orders, methods and learning rates: a piece is found
    by its model, learner, settings and the training examples of its tasks, and by nothing else.

    Args:
        folder: where to keep them; None is memory alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[str, Piece] = {}

    def learn(
        self, setting: Setting, learner: Learner, history: Sequence[Piece], name: str
    ) -> Piece:
        """Return what a task's stage learns after the given ones; train it where it is unknown."""
        key = _key(setting, learner, history, name)
        if key not in self._known:
            self._known[key] = self._find(key, setting, learner, history, name)
        return self._known[key]

    def _find(
        self, key: str, setting: Setting, learner: Learner, history: Sequence[Piece], name: str
    ) -> Piece:
        folder = None if self._folder is None else self._folder / f"{file_name(name)}-{key}"
        if folder is not None and (folder / "piece.json").exists():
            return load_piece(folder)
        start = time.perf_counter()
        with peak_memory(setting.view.device) as peak:
            piece = learner.learn(setting, history, setting.tasks[name])
        piece = replace(piece, seconds=time.perf_counter() - start, peak_mib=peak.mib)
        if folder is not None:
            save_piece(folder, piece)
        return piece


def save_piece(folder: Path, piece: Piece) -> None:
    """Write a piece to a folder; ``piece.json`` comes last, and with it the piece is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    save_delta(folder / "delta.safetensors", piece.delta)
    kind = type(piece.delta).__name__
    if piece.relevance is not None:
        save_tensor(folder / "relevance.safetensors", "Relevance", piece.relevance, {})
    facts = {"task": piece.task, "kind": kind, "seconds": piece.seconds, "peak_mib": piece.peak_mib}
    write_json(folder / "piece.json", facts)


def load_piece(folder: Path) -> Piece:
    """Read a piece that ``save_piece`` wrote.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: for a damaged file.
    """
    facts = read_json(folder / "piece.json")
    delta = load_delta(folder / "delta.safetensors", facts["kind"])
    scores = folder / "relevance.safetensors"
    relevance = load_tensor(scores, "Relevance")[0] if scores.exists() else None
    return Piece(facts["task"], delta, relevance, facts["seconds"], facts["peak_mib"])


def save_delta(path: Path, delta: Delta) -> None:
    """Write what training left: changed neurons, a whole model's weights, or an adapter."""
    header = {"fingerprint": delta.fingerprint, "name": delta.name, "info": dict(delta.info)}
    if isinstance(delta, NeuronDelta):
        delta.save(path)
    elif isinstance(delta, WeightDelta):
        save_tensors(path, "WeightDelta", delta.trained, header)
    else:
        tensors = {f"down/{name}": down for name, (down, _) in delta.factors.items()}
        tensors |= {f"up/{name}": up for name, (_, up) in delta.factors.items()}
        save_tensors(path, "LoraDelta", tensors, {**header, "scaling": delta.scaling})


def load_delta(path: Path, kind: str) -> Delta:
    """Read what ``save_delta`` wrote; ``kind`` is the name of its class.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a damaged file, or another kind.
    """
    return _LOADERS[kind](path)


def _load_weights(path: Path) -> WeightDelta:
    tensors, header = load_tensors(path, "WeightDelta", _HEADER)
    return WeightDelta(header["fingerprint"], tensors, header["name"], header["info"])


def _load_lora(path: Path) -> LoraDelta:
    tensors, header = load_tensors(path, "LoraDelta", (*_HEADER, "scaling"))
    names = [name.removeprefix("down/") for name in tensors if name.startswith("down/")]
    factors = {name: (tensors[f"down/{name}"], tensors[f"up/{name}"]) for name in sorted(names)}
    return LoraDelta(
        header["fingerprint"], factors, header["scaling"], header["name"], header["info"]
    )


_LOADERS: dict[str, Callable[[Path], Delta]] = {
    "NeuronDelta": NeuronDelta.load,
    "WeightDelta": _load_weights,
    "LoraDelta": _load_lora,
}


def _key(setting: Setting, learner: Learner, history: Sequence[Piece], name: str) -> str:
    earlier = [piece.task for piece in history]
    tasks = [*earlier, name] if learner.ordered else sorted([*earlier, name])
    content: list[Any] = [
        setting.view.fingerprint, repr(learner if earlier else learner.first),
        asdict(setting.training), asdict(setting.prompt),
        tasks_digest([replace(setting.tasks[each], test=()) for each in tasks]),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
