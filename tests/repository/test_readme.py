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
DOCS = {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "docs").glob("*.md")}
COLUMNS = (
    "original", "random", "silenced", "loss_rise", "loss_rise_random", "loss_rise_others",
)  # fmt: skip
COUNTS = ("loss rise > random", "loss rise > others")


def test_the_ten_lines_run(monkeypatch, tokenizer, capsys):
    (code,) = BLOCKS
    asked = []

    def tiny(name: str):
        asked.append(name)
        return helpers.tiny_lens("llama", tokenizer=tokenizer, intermediate_size=1024)

    monkeypatch.setattr(tn, "load_model", tiny)
    exec(code.replace('"limit": 32', '"limit": 4'), {"__name__": "readme"})
    assert asked == ["smollm2-135m"]
    printed = capsys.readouterr().out.splitlines()
    assert [re.sub(r"[\d. ,\[\]]+", "", line) for line in printed] == [
        "asitis", "silenced", "asmanyrandomones",
    ]  # fmt: skip


def test_the_hooked_model_is_loaded_as_written():
    assert 'tn.load_model("smollm2-135m", kind="hooked")' in README


def test_the_readme_fits_a_screen_or_two():
    assert len(README.splitlines()) <= 120


def test_the_lines_for_large_models_run(tokenizer):
    (code,) = re.findall(
        r"```python\n(scores = tn\.score_tasks.*?)```", DOCS["large.md"], re.DOTALL
    )
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    scope: dict = {"tn": tn, "model": model, "tasks": [helpers.toy_task(4)]}
    exec(code.replace("range(20, 30)", "range(1, 2)"), scope)
    assert scope["scores"].values.any()


def test_the_task_file_shown_is_a_task(tmp_path):
    lines, *_ = re.findall(r"```json\n(.*?)```", DOCS["own_task.md"], re.DOTALL)
    file = tmp_path / "fruit.jsonl"
    file.write_text(lines)
    (task,) = tn.load_tasks(str(file))
    assert task.name == "fruit"
    assert task.instruction == "Name the colour of this fruit."
    assert {example.target for example in (*task.train, *task.test)} == {"yellow", "red", "green"}


@pytest.mark.parametrize("page", ["README.md", *sorted(DOCS)])
def test_links_to_files_hold(page: str):
    text, folder = (README, ROOT) if page == "README.md" else (DOCS[page], ROOT / "docs")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (folder / target).exists(), f"{page} links to {target}"


def test_every_public_name_in_the_readme_exists():
    for name in set(re.findall(r"\btn\.([a-z_A-Z]+)", README + "".join(DOCS.values()))):
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
    (found,) = table[table["selection"] == "found"].to_dict("records")
    assert f"`find_neurons` needs {found['n_neurons']} neurons" in text
    assert f"from {100 * found['original']:.0f}% to {100 * found['silenced']:.0f}%" in text
    assert f"cost the others {100 * found['others_drop']:.0f} points" in text


def test_the_measured_table_is_that_of_the_csv():
    for row in pd.read_csv(FIGURES / "table1_smollm2_mean.csv").to_dict("records"):
        start = f"| {row['ablation']} | {row['fraction']:.0%} | {row['selection']} |"
        (line,) = [line for line in DOCS["selections.md"].splitlines() if line.startswith(start)]
        cells = [f"{row[name]:.2f}" for name in COLUMNS]
        counts = [f"{row[name]} of {row['tasks']}" for name in COUNTS]
        assert line == f"{start} {' | '.join([*cells, *counts])} |"
