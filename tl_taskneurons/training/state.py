"""What a training run must remember to go on where it stopped, in memory and in a file."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.tensor_files import load_tensors, save_tensors

_KIND = "TrainingCheckpoint"
Row = dict[str, float | int]
_HEADER = ("about", "step", "rows", "lowest", "stale")


class TrainingState:
    """Trained tensors, optimiser, history, and the best tensors so far.

    Args:
        parameters: what is trained.
        optimiser: of these parameters.
        about: all that decides the result, JSON values by name; a checkpoint with others is
            refused.
        path: the checkpoint's file; None keeps the state in memory alone.

    Attributes:
        step: updates done.
        rows: the history, one row per update.
        stale: looks at the held-out part since its lowest loss.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        optimiser: torch.optim.Optimizer,
        about: Mapping[str, Any],
        path: Path | None,
    ) -> None:
        self._parameters, self._optimiser = parameters, optimiser
        self._about, self._path = about, path
        self.step = 0
        self.rows: list[Row] = []
        self.stale = 0
        self._lowest = math.inf
        self._best: list[Tensor] = []
        self._saved_step = 0

    def look(self, loss: float, *, keep: bool) -> None:
        """Note a validation loss (nats), and keep the tensors if it is the lowest yet."""
        self.rows[-1]["validation_loss"] = loss
        if loss < self._lowest:
            self._lowest, self.stale = loss, 0
            if keep:
                self._best = [p.detach().clone() for p in self._parameters]
        else:
            self.stale += 1

    @torch.no_grad()
    def keep_best(self) -> None:
        """Go back to the tensors with the lowest validation loss, where they were kept."""
        if self._best:
            for parameter, value in zip(self._parameters, self._best, strict=True):
                parameter.copy_(value)

    def save(self) -> None:
        """Write the checkpoint atomically, unless this step is in the file already."""
        if self._path is None or self.step == self._saved_step:
            return
        tensors = {f"weight/{i}": p for i, p in enumerate(self._parameters)}
        tensors |= {f"best/{i}": value for i, value in enumerate(self._best)}
        for i, values in self._optimiser.state_dict()["state"].items():
            tensors |= {f"{kind}/{i}": value for kind, value in values.items()}
        header = {
            "about": dict(self._about), "step": self.step, "rows": _to_json(self.rows),
            "lowest": None if math.isinf(self._lowest) else self._lowest, "stale": self.stale,
        }  # fmt: skip
        save_tensors(self._path, _KIND, tensors, header)
        self._saved_step = self.step

    @torch.no_grad()
    def resume(self) -> None:
        """Take up the checkpoint, where there is one.

        Raises:
            ValueError: for a damaged file, or the checkpoint of another training.
        """
        if self._path is None or not self._path.exists():
            return
        tensors, header = load_tensors(self._path, _KIND, _HEADER)
        self._require_same(header["about"])
        self.step = self._saved_step = header["step"]
        self.stale = header["stale"]
        self._lowest = math.inf if header["lowest"] is None else header["lowest"]
        self.rows = _from_json(header["rows"])
        best: dict[int, Tensor] = {}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, number = name.split("/")
            i = int(number)
            if kind == "weight":
                self._parameters[i].copy_(value)
            elif kind == "best":
                best[i] = value.to(self._parameters[i].device)
            else:
                moments.setdefault(i, {})[kind] = value
        self._best = [best[i] for i in sorted(best)]
        state = self._optimiser.state_dict()
        self._optimiser.load_state_dict({**state, "state": moments})

    def _require_same(self, stored: Mapping[str, Any]) -> None:
        # As JSON, which has lists for tuples.
        there, now = (json.loads(json.dumps(dict(each))) for each in (stored, self._about))
        differing = [
            f"{name}: {there.get(name)!r} there, {now.get(name)!r} now"
            for name in sorted({*there, *now})
            if there.get(name) != now.get(name)
        ]
        if differing:
            raise InputError(
                f"{self._path} is the checkpoint of another training ({'; '.join(differing)}). "
                "Give another file or remove it, or train as there."
            )


def _to_json(rows: Sequence[Row]) -> list[dict[str, float | int | None]]:
    """JSON has no NaN."""
    return [
        {name: None if math.isnan(value) else value for name, value in row.items()} for row in rows
    ]


def _from_json(rows: Sequence[dict[str, Any]]) -> list[Row]:
    return [
        {name: math.nan if value is None else value for name, value in row.items()} for row in rows
    ]
