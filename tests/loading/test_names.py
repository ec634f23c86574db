import subprocess
import sys
from pathlib import Path

import pytest

from tl_taskneurons.loading.names import check_model_name


@pytest.mark.parametrize("name", ["smollm2-135m", "Mini-Llama", "gpt2", "some/model", "GPT2-small"])
def test_names_that_may_be_there_pass(name: str):
    check_model_name(name)


def test_folders_and_files_pass_and_empty_folders_do_not(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        check_model_name(str(tmp_path))
    (tmp_path / "adapter_config.json").touch()  # a peft adapter
    check_model_name(str(tmp_path))
    (tmp_path / "config.json").touch()
    check_model_name(str(tmp_path))
    (tmp_path / "model.gguf").touch()
    check_model_name(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm2-135", "unknown model 'smollm2-135'; nearest known names: smollm2-135m"),
        ("mini-lama", "did you mean 'mini-llama'"),
        ("gtp2", "gpt2"),
        ("./nowhere", "no file or folder './nowhere'"),
        ("a/b/c", "no file or folder 'a/b/c'"),
        ("weights.gguf", "no file or folder 'weights.gguf'"),
        ("", "unknown model ''"),
    ],
)
def test_names_that_nobody_knows_are_told(name: str, message: str):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_model_name(name)


def test_names_are_checked_without_torch():
    code = (
        "import sys; from tl_taskneurons.loading.names import check_model_name; "
        "check_model_name('gpt2'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
