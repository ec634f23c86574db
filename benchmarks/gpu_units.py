"""The units of ``gpu.py``: what each measures, what it needs, and how."""

import gc
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_correct
import gpu_large
import gpu_paper
import pandas as pd
import torch


@dataclass(frozen=True)
class Setting:
    """What all units are told.

    Attributes:
        device: where to measure.
        tiny: small shapes.
        data: folder of tasks for the paper's experiments; None where there is none.
        out: the folder of the tables.
        deadline: when to be done, by ``time.monotonic``.
    """

    device: torch.device
    tiny: bool
    data: Path | None
    out: Path
    deadline: float

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


@dataclass(frozen=True)
class Unit:
    """A measurement that leaves one table.

    Attributes:
        part: ``a``, ``b`` or ``c``.
        name: the table's name.
        measure: makes the table.
        gib: memory of the card that it needs.
        seconds: about how long it takes on a large GPU; it isn't begun with less time left.
        needs_data: whether it needs a folder of tasks.
    """

    part: str
    name: str
    measure: Callable[[Any], pd.DataFrame]
    gib: float = 1.0
    seconds: float = 10.0
    needs_data: bool = False

    def missing(self, setting: Setting) -> str:
        """Say what is missing for it; empty where nothing is."""
        if self.needs_data and setting.data is None and not setting.tiny:
            return "it needs a folder of tasks (--data)"
        if setting.tiny:
            return ""
        if setting.seconds_left < self.seconds:
            return f"it takes about {self.seconds:g} s and {setting.seconds_left:.0f} s are left"
        if setting.device.type == "cuda":
            free = torch.cuda.mem_get_info(setting.device)[0] / 2**30
            if free < self.gib:
                return f"it needs {self.gib:g} GiB and {free:.0f} GiB are free on the card"
        return ""

    def run(self, setting: Setting) -> pd.DataFrame:
        """Measure, and give the memory back."""
        try:
            return self.measure(setting)
        finally:
            gc.collect()
            if setting.device.type == "cuda":
                torch.cuda.empty_cache()


def machine(setting: Setting) -> dict[str, Any]:
    """Return what the machine is; no names and no paths."""
    facts: dict[str, Any] = {
        "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda
    }  # fmt: skip
    if setting.device.type == "cuda":
        properties = torch.cuda.get_device_properties(setting.device)
        facts |= {"gpu": properties.name, "gib": round(properties.total_memory / 2**30, 1),
                  "gpus": torch.cuda.device_count()}  # fmt: skip
    return facts


UNITS = (
    *(
        Unit("a", f"{model}-{dtype}", gpu_correct.against_the_cpu(model, dtype), seconds=8)
        for dtype in ("float32", "bfloat16")
        for model in ("mini-llama", "mini-bloom")
    ),
    Unit("a", "device_map", gpu_correct.device_map, seconds=5),
    Unit("a", "two_processes", gpu_correct.two_processes, seconds=40),
    Unit("b", "matrix_peak", gpu_large.matrix_peak, gib=2, seconds=5),
    Unit("b", "detection", gpu_large.detection, gib=40, seconds=40),
    Unit("b", "training", gpu_large.training, gib=60, seconds=60),
    Unit("b", "plan", gpu_large.plan, gib=40, seconds=40),
    Unit("c", "speed", gpu_paper.speed, gib=8, seconds=60, needs_data=True),
    Unit("c", "silenced", gpu_paper.silenced, gib=8, seconds=60, needs_data=True),
    Unit("c", "sequences", gpu_paper.sequences, gib=8, seconds=60, needs_data=True),
)
