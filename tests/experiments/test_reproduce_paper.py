"""The preset of the paper's sizes, with everything real but the download and the sizes."""

import json
from dataclasses import replace
from typing import Any

import datasets
import helpers
import pytest
from hub_rows import MAKERS, local

from tl_taskneurons.experiments.lab.plan import PAPER_METHODS
from tl_taskneurons.experiments.lab.presets import (
    PAPER_TASKS,
    PRESETS,
    SUBJECTS,
    Subject,
    overridden,
)
from tl_taskneurons.experiments.reproduce import Job, reproduce
from tl_taskneurons.loading.hub_mappings import HUB_TASKS
from tl_taskneurons.runtime.table_files import read_table

SMALL = {
    "seeds": (0,), "detections": 1, "silenced_samples": 1, "controls": 1, "tuned_steps": 1,
    "steps": 1, "transfer_steps": 1, "batch_size": 2,
    "rates": (1e-3,), "n_detect": 2, "n_train": 4, "n_test": 2, "max_new_tokens": 2,
}  # fmt: skip
SMALL_ROWS = {"orders": ("order1",), "steps": 1, "batch_size": 2, "n_train": 4, "n_test": 1,
              "rates": (1e-3,), "instructions": ("neutral",), "goal": None}  # fmt: skip
ORDER_1 = ("dbpedia", "amazon", "yahoo", "agnews")
# Enough rows for every class, among them those that are not used.
TRAIN, TEST = 420, 210


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answer for the hub with tables of the same columns; return the names that were asked for."""
    asked: list[str] = []

    def load(path: str, config: str | None = None, **options: Any) -> Any:
        (name,) = [n for n, s in HUB_TASKS.items() if (s.path, s.config) == (path, config)]
        asked.append(name)
        return local(name, TRAIN, TEST)

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hub_id", "name", "only"),
    [
        ("meta-llama/Llama-2-7b-hf", "llama", ("table1", "table5")),
        ("bigscience/bloom-7b1", "bloom", ("table2",)),
    ],
)
def test_the_paper_s_models_and_data_sets_run(hub_id, name, only, hub, tmp_path):
    real = SUBJECTS[hub_id]
    assert (real.base, real.data, real.preset) == (hub_id, "hub", "paper")
    folder = helpers.save_tiny(name, tmp_path / "tiny")
    plan = overridden(PRESETS["paper"], SMALL, SMALL_ROWS)
    plan = replace(plan, speed_steps=1, selections=("plain",), fractions=(0.1,))
    # One of the paper's data sets is not on the hub; its file lies in a folder.
    rows = [MAKERS["gptnli"](i) for i in range(TRAIN)]
    (tmp_path / "gptnli.jsonl").write_text("\n".join(map(json.dumps, rows)))
    subject = Subject(str(folder), real.tuned, real.preset, f"{real.data}+{tmp_path}")
    reproduce(Job(subject, plan, only, tmp_path / "run", threads=1))
    in_a_row = ORDER_1 if "table5" in only else ()
    assert set(hub) == {*PAPER_TASKS, *in_a_row} - {"gptnli"}
    table = read_table(tmp_path / "run" / f"{only[0]}.parquet")
    assert tuple(table["task"].unique()) == PAPER_TASKS
    if in_a_row:
        rows = read_table(tmp_path / "run" / "table5.parquet")
        assert set(rows["method"]) == set(PAPER_METHODS)
