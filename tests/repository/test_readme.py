import re
from pathlib import Path

import helpers
import pandas as pd
import pytest

import tl_taskneurons as tn

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "figures"
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COLUMNS = (
    "original", "random", "silenced", "loss_rise", "loss_rise_random", "loss_rise_others",
)  # fmt: skip
COUNTS = ("loss rise > random", "loss rise > others")


def test_the_ten_lines_run(monkeypatch, tmp_path, tokenizer, capsys):
    (code,) = [block for block in BLOCKS if "random_like" in block]
    asked = []

    def tiny(name: str):
        asked.append(name)
        return helpers.tiny_lens("llama", tokenizer=tokenizer, intermediate_size=1024)

    monkeypatch.setattr(tn, "load_model", tiny)
    monkeypatch.chdir(tmp_path)
    code = code.replace("limit=48", "limit=6").replace("limit=32", "limit=4")
    exec(code, {"__name__": "readme"})
    assert asked == ["smollm2-135m"]
    assert "present_past" in capsys.readouterr().out
    assert len(tn.NeuronSet.load("present_past.safetensors")) > 0


def test_training_and_learning_in_a_row_run_as_written(monkeypatch, tmp_path, capsys):
    (training,) = [block for block in BLOCKS if "tn.finetune(" in block]
    (row,) = [block for block in BLOCKS if "tn.run_sequence(" in block]
    monkeypatch.chdir(tmp_path)
    scope: dict = {"tn": tn}
    for code in (training, row):
        assert "steps=60" in code
        code = code.replace("steps=60", "steps=2").replace("(base, film)", "(base, film, limit=4)")
        exec(code.replace("training=", "test_limit=2, training="), scope)
    assert "mini_film" in capsys.readouterr().out
    assert len(tn.NeuronDelta.load("film.safetensors").neurons) == len(scope["chosen"])
    assert list(scope["result"].order) == ["mini_press4", "mini_stars5", "mini_forum10"]


def test_the_lines_for_large_models_run(tokenizer):
    (code,) = [block for block in BLOCKS if "score_tasks" in block]
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    scope: dict = {"tn": tn, "model": model, "tasks": [helpers.toy_task(4)]}
    exec(code.replace("range(20, 30)", "range(1, 2)"), scope)
    assert scope["scores"].values.any()


@pytest.mark.needs("hooked")
def test_the_hooked_line_runs_as_written(tmp_path):
    lines = [line for block in BLOCKS for line in block.splitlines() if "load_model(" in line]
    (hooked,) = [line for line in lines if 'kind="hooked"' in line]
    folder = helpers.save_tiny("llama", tmp_path / "tiny")
    scope: dict = {"tn": tn}
    exec(hooked.replace('"smollm2-135m"', repr(str(folder))), scope)
    assert type(scope["model"]).__name__ == "HookedTransformer"


def test_the_task_file_shown_is_a_task(tmp_path):
    (lines,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    file = tmp_path / "fruit.jsonl"
    file.write_text(lines)
    (task,) = tn.load_tasks(str(file))
    assert task.name == "fruit"
    assert task.instruction == "Name the colour of this fruit."
    assert {example.target for example in (*task.train, *task.test)} == {"yellow", "red", "green"}


def test_every_public_name_in_the_readme_exists():
    for name in set(re.findall(r"\btn\.([a-z_A-Z]+)", README)):
        assert hasattr(tn, name), name


def test_the_figures_in_the_caption_are_those_of_the_table():
    table = pd.read_csv(FIGURES / "demo_table.csv")
    own = table[table["selection"] == "exclusive"]
    text = " ".join(README.split())
    assert f"{own['n_neurons'].min()} to {own['n_neurons'].max()} of 46,080 neurons" in text
    assert f"task {100 * own['drop'].mean():.0f} points on average" in text
    assert f"the other tasks {100 * own['others_drop'].mean():.0f}," in text
    assert f"neurons cost {100 * (own['original'] - own['random']).mean():.0f}." in text
    assert (table.loc[table["selection"] == "plain", "silenced"] == 0).all()


def test_the_measured_table_is_that_of_the_csv():
    for row in pd.read_csv(FIGURES / "table1_smollm2_mean.csv").to_dict("records"):
        start = f"| {row['ablation']} | {row['fraction']:.0%} | {row['selection']} |"
        (line,) = [line for line in README.splitlines() if line.startswith(start)]
        cells = [f"{row[name]:.2f}" for name in COLUMNS]
        counts = [f"{row[name]} of {row['tasks']}" for name in COUNTS]
        assert line == f"{start} {' | '.join([*cells, *counts])} |"
