"""What every command has: help, examples, completion, one-line errors, and a quick start."""

import subprocess
import sys
from pathlib import Path

import pytest

from tl_taskneurons import __version__
from tl_taskneurons.cli import main
from tl_taskneurons.cli.commands import app
from tl_taskneurons.cli.reproduce import EXPERIMENTS
from tl_taskneurons.continual.methods import METHODS as CONTINUAL
from tl_taskneurons.experiments import reproduce
from tl_taskneurons.neurons.methods import METHODS, SELECTIONS
from tl_taskneurons.training.settings import Training

COMMANDS = (
    "detect", "deactivate", "find", "curves", "info", "report", "finetune", "apply", "merge",
    "export", "continual", "reproduce", "plan",
)  # fmt: skip


def shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints, in one line and without the frames around it."""
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert not err
    return " ".join(out.replace("│", " ").split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples_that_parse(
    name: str, capsys: pytest.CaptureFixture[str]
):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "--debug" in out and "--plugin" in out
    examples = out.split("example")[-1].split(":\n", 1)[1].split("\n\n")[0].replace("\\\n", " ")
    for example in examples.strip().splitlines():
        words = example.split()
        assert words[:2] == ["tl-taskneurons", name]
        command, _, _ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
        assert command.__name__ == name


def test_the_help_names_every_command_and_choice(capsys: pytest.CaptureFixture[str]):
    text = shown(["--help"], capsys)
    for name in (*COMMANDS, "--version", "--install-completion"):
        assert name in text
    detect = shown(["detect", "--help"], capsys)
    for name, says in {**METHODS, **SELECTIONS, "bridge": "hooked", "bfloat16": ""}.items():
        assert name == "exact" or (name in detect and str(says) in detect), name
    text = shown(["continual", "--help"], capsys)
    for name, says in CONTINUAL.items():
        assert name in text and str(says) in text, name
    text = shown(["finetune", "--help"], capsys)
    for name in Training.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text


def test_the_experiments_of_the_help_are_those_that_there_are():
    assert set(EXPERIMENTS) == set(reproduce.EXPERIMENTS)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]):
    assert shown(["--version"], capsys) == __version__


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["detcet"], ['"detcet"', '"detect"']),
        (["detect", "--tasks", "antonym", "--out", "x", "--limt", "3"], ["--limt", "--limit"]),
        (["detect", "--tasks", "antonim", "--out", "x"], ["'antonim'", "'antonym'"]),
        (["finetune", "--tasks", "antonym", "--out", "x", "--lr", "0"], ["lr is 0.0"]),
        (["finetune", "--tasks", "antonym", "--out", "x", "--seed", "-1"], ["seed is -1"]),
        (["finetune", "--tasks", "antonym", "--out", "x", "--method", "exact"], ["'exact'"]),
        (["finetune", "--tasks", "antonym", "--out", f"{__file__}/x"], [__file__, "file"]),
        (["deactivate", "--tasks", "antonym", "--out", "x", "--controls", "0"], ["controls is 0"]),
        (["detect", "--tasks", "antonym", "--out", __file__], [__file__, "file"]),
        (["reproduce", "--only", ""], ["only is empty"]),
        (["reproduce", "--only", "tabel1"], ["'tabel1'", "'table1'"]),
        (["reproduce", "--preset", "smok"], ["smok", "smoke"]),
        (["reproduce", "--workers", "0"], ["workers is 0"]),
        (["reproduce", "--seeds", "0", str(2**70)], [f"seed is {2**70}"]),
        (["reproduce", "--seeds"], ["seeds is empty"]),
        (["reproduce", "--seeds", "0,1.5"], ["seeds is '0,1.5'", "whole numbers"]),
        (["reproduce", "--row-rates", "1e-3", "fast"], ["row-rates is '1e-3 fast'"]),
        (["reproduce", "--row-rates", "1e-3,0"], ["rates has 0.0"]),
        (["reproduce", "--map-updates", "8,12"], ["map_updates is (8, 12)", "multiples"]),
        (["reproduce", "--map-updates", "16,8"], ["map_updates is (16, 8)", "rising"]),
        (["reproduce", "--map-shares", "0"], ["shares has 0.0"]),
        (["reproduce", "--fractions", "0.01,2"], ["shares has 2.0"]),
        (["reproduce", "--seeds", "0,1,0"], ["seeds has 0 more than once"]),
        (["reproduce", "--map-updates", "8,8"], ["map-updates has 8 more than once"]),
        (["reproduce", "--shares", "0.1", "0.10"], ["shares has 0.1 more than once"]),
        (
            ["detect", "--tasks", "antonym", "--selection", "plain,plain", "--out", "x"],
            ["selection has plain more than once"],
        ),
        (["reproduce", "--methods", "ncft,ncft"], ["methods has ncft more than once"]),
        (["reproduce", "--tasks", "mini_food,mini_food"], ["tasks has mini_food more than once"]),
        (["reproduce", "--questions", "spede"], ["'spede'", "'speed'"]),
        (["reproduce", "--map-tasks", "mini_fod"], ["'mini_fod'", "'mini_food'"]),
        (
            ["reproduce", "--tasks", "mini_food,mini_film", "--map-tasks", "mini_news"],
            ["'mini_news'", "mini_film"],
        ),
        (["reproduce", "--cut-tasks", "mini_food"], ["cut_tasks", "--max-chars"]),
        (
            [
                "reproduce",
                "--tasks",
                "mini_food,mini_film",
                "--max-chars",
                "9",
                "--cut-tasks",
                "mini_news",
            ],
            ["Unknown task to cut 'mini_news'"],
        ),
        (["reproduce", "--csv", f"{__file__}/csv"], [__file__, "file"]),
        (["continual", "--tasks", "antonym", "--method", ",", "--out", "x"], ["method is empty"]),
        (["info", "--plugin", "no_such_module"], ["'no_such_module'", "PYTHONPATH"]),
        (["info", "\x1b[31mred"], ["\\x1b[31mred"]),
        (["report"], ["RUN_DIR"]),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1
    for word in words:
        assert word in err, err


@pytest.mark.parametrize("given", [["0.1", "0.5"], ["0.1,0.5"], ["0.1,", "0.5"]])
def test_numbers_have_spaces_or_commas_between(given: list[str], monkeypatch: pytest.MonkeyPatch):
    found = []
    monkeypatch.setattr(
        "tl_taskneurons.cli.reproduce.overridden", lambda preset, sizes, *parts: found.append(sizes)
    )
    with pytest.raises(AttributeError):  # the plan that is not made here
        main(["reproduce", "--shares", *given])
    assert found[0]["shares"] == (0.1, 0.5)


def test_a_programming_error_is_not_taken_for_a_users(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr("tl_taskneurons.cli.options.load_tasks", broken)
    with pytest.raises(TypeError, match="a bug"):
        main(["info"])


def test_markup_in_names_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = '{"input": "a", "label": "[/b]", "split": "train"}\n'
    rows += '{"input": "b", "label": "[red]\\u001b[31m", "split": "test"}\n'
    (tmp_path / "own.jsonl").write_text(rows)
    assert main(["info", "--data", str(tmp_path / "own.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "[/b], [red]\\x1b[31m" in out and "\x1b[31m" not in out


def python(code: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder
    )


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["detect", "--help"], ["detect", "--tasks", "antonim", "--out", "x"],
     ["generate", "--help"], ["find", "--metric", "los", "--out", "x"],
     ["detect", "--limt", "3"], ["continual", "--help"], ["reproduce", "--help"], ["info"]],
)  # fmt: skip
def test_help_and_mistakes_need_no_torch(arguments: list[str]):
    done = python(
        f"import sys; from tl_taskneurons.cli import main; main({arguments}); "
        "sys.exit('torch' in sys.modules or 'transformer_lens' in sys.modules)"
    )
    assert done.returncode == 0, done.stderr


def test_shells_complete_names(tmp_path: Path):
    script = app.generate_completion(shell="bash")
    assert "detect" in script and "--selection" in script


PLUGIN = """
from tl_taskneurons.neurons.methods import METHODS
METHODS.register("mine", "my own scores")(lambda *_: None)
"""


def test_a_plugins_methods_are_in_the_help(tmp_path: Path):
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    code = (
        "import sys; sys.path.insert(0, ''); from tl_taskneurons.cli import main; "
        "sys.exit(main(['detect', '--help', '--plugin', 'my_plugin']))"
    )
    done = python(code, tmp_path)
    words = " ".join(done.stdout.replace("\u2502", " ").split())  # the help wraps where it must
    assert done.returncode == 0 and "mine: my own scores" in words


@pytest.mark.parametrize("value", ["2.5", "1e3", "nan"])
@pytest.mark.parametrize("option", ["--limit", "--seed", "--shots"])
def test_fractions_of_whole_numbers_are_refused(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
):
    words = ["detect", "--model", "mini-llama", "--tasks", "mini_food", "--out", "runs/x"]
    assert main([*words, option, value]) == 2
    assert f"{option} is '{value}'; it must be a whole number" in capsys.readouterr().err
