"""The wheel holds what a user needs, and nothing else; `make package` uses it."""

import re
import tomllib
import zipfile
from email.parser import Parser

import pytest
import wheels
from wheels import PACKAGE, ROOT

import tl_taskneurons

# For readers of the source.
LEFT_OUT = {"builtin/README.md"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(wheels.build(tmp_path_factory.mktemp("wheel")))


def test_the_wheel_holds_the_package_alone(wheel: zipfile.ZipFile):
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = [path.relative_to(ROOT / PACKAGE) for path in (ROOT / PACKAGE).rglob("*")]
    wanted = {
        f"{PACKAGE}/{path.as_posix()}"
        for path in files
        if (ROOT / PACKAGE / path).is_file()
        and "__pycache__" not in path.parts
        and path.as_posix() not in LEFT_OUT
    }
    assert found == wanted


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile):
    (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    told = Parser().parsestr(wheel.read(name).decode())
    assert told["Version"] == tl_taskneurons.__version__
    assert told["License-Expression"] == "MIT"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = settings["project"]["optional-dependencies"]
    assert set(told.get_all("Provides-Extra") or ()) == set(extras)
    (name,) = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]
    assert "tl-taskneurons = tl_taskneurons.cli:main" in wheel.read(name).decode()


def test_messages_name_extras_that_there_are():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = set(settings["project"]["optional-dependencies"])
    files = [*(ROOT / PACKAGE).rglob("*.py"), ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for file in files:
        text = file.read_text(encoding="utf-8")
        for named in re.findall(r"tl-taskneurons\[([\w,-]+)\]", text):
            assert set(named.split(",")) <= extras, f"{file.name} names the extra {named}"
