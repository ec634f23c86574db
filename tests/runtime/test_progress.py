import io
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tl_taskneurons.runtime import progress, widgets
from tl_taskneurons.runtime.progress import Progress


class Terminal(io.StringIO):
    """A stream that is a terminal, or a pipe."""

    def __init__(self, *, is_terminal: bool = True) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


class Later:
    """A timer that goes off when it is told to."""

    waiting: list["Later"] = []  # noqa: RUF012

    def __init__(self, seconds: float, function: Any) -> None:
        self.seconds, self.function, self.is_cancelled = seconds, function, False

    def start(self) -> None:
        self.waiting.append(self)

    def cancel(self) -> None:
        self.is_cancelled = True


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> list[Later]:
    monkeypatch.setattr(progress, "Timer", Later)
    monkeypatch.setattr(Later, "waiting", [])
    for name in ("CI", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    return Later.waiting


def on(monkeypatch: pytest.MonkeyPatch, **kind: bool) -> Terminal:
    stream = Terminal(**kind)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_terminal_gets_a_bar_after_two_seconds(later: list[Later], monkeypatch: Any):
    stream = on(monkeypatch)
    for k, _ in enumerate(Progress("counting").over(range(3))):
        if k == 1:
            assert stream.getvalue() == ""
            assert [timer.seconds for timer in later] == [2.0]
            later[0].function()
    assert "counting" in stream.getvalue()
    assert later[0].is_cancelled
    said = stream.getvalue()
    later[0].function()  # too late: the loop is over
    assert stream.getvalue() == said


def test_loops_within_loops_show_one_bar(later: list[Later], monkeypatch: Any):
    on(monkeypatch)
    for _ in Progress("outer").over(range(2)):
        for _ in Progress("inner").over(range(2)):
            pass
    assert len(later) == 1
    for _ in Progress("outer", shown=False).over(range(2)):
        for _ in Progress("inner").over(range(2)):
            pass
    assert len(later) == 1


def test_an_error_in_the_loop_closes_the_bar(later: list[Later], monkeypatch: Any):
    on(monkeypatch)
    with pytest.raises(ZeroDivisionError), Progress("outer") as bar:
        for k in bar.track(range(3)):
            _ = 1 / k
    assert later[0].is_cancelled
    with Progress("next"):
        assert len(later) == 2


def test_nowhere_else(later: list[Later], monkeypatch: Any):
    pipe = on(monkeypatch, is_terminal=False)
    list(Progress("counting").over(range(3)))
    assert not later
    on(monkeypatch)
    monkeypatch.setenv("CI", "true")
    list(Progress("counting").over(range(3)))
    assert not later
    assert pipe.getvalue() == ""


def test_asked_for_it_is_shown_at_once_and_asked_not_to_never(later: list[Later], monkeypatch: Any):
    stream = on(monkeypatch)
    list(Progress("counting", shown=True).over(range(3)))
    assert "counting" in stream.getvalue()
    stream = on(monkeypatch)
    list(Progress("counting", shown=False).over(range(3)))
    assert stream.getvalue() == ""
    assert not later


def test_jupyter_without_widgets_gets_none_and_is_told_when_it_asks(monkeypatch: Any):
    monkeypatch.delenv("CI", raising=False)
    jupyter = Console(force_jupyter=True)
    monkeypatch.setattr(progress, "find_spec", lambda _name: None)
    assert not progress._can_show(jupyter, None)
    with pytest.warns(UserWarning, match=r"tl-taskneurons\[jupyter\]"):
        assert not progress._can_show(jupyter, True)
    monkeypatch.setattr(progress, "find_spec", lambda name: name)
    assert progress._can_show(jupyter, None)
    assert not progress._can_show(jupyter, False)


def test_widgets_move_with_the_loop_and_go_away(monkeypatch: pytest.MonkeyPatch):
    shown: list[Any] = []

    class Bar(SimpleNamespace):
        def close(self) -> None:
            shown.remove(self)

    fake: Any = ModuleType("ipywidgets")
    fake.Layout, fake.FloatProgress = SimpleNamespace, Bar
    modules = {"ipywidgets": fake, "IPython.display": SimpleNamespace(display=shown.append)}
    monkeypatch.setattr(widgets, "import_module", modules.__getitem__)
    bars = widgets.WidgetBars()
    task = bars.add_task("training", total=4, completed=1)
    bars.update(task, advance=1)
    assert not shown
    bars.start()
    bars.update(task, advance=1, description="training: loss 0.5")
    assert (shown[0].value, shown[0].max, shown[0].description) == (3, 4, "training: loss 0.5")
    bars.add_task("next", total=0)
    assert (shown[1].value, shown[1].max) == (0, 1)
    bars.stop()
    assert not shown
