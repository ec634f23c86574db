import re
from pathlib import Path

import helpers
import pytest

import tl_taskneurons as tn

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


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
