import os
import signal
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from tl_taskneurons.runtime import cleanup
from tl_taskneurons.runtime.cleanup import Undo, setting


class Stop(BaseException):
    """An exception that no step raises by itself."""


def raise_at(line: int, call: Callable[[], object]) -> bool:
    """Call, and raise Stop where the given line of cleanup.py (counted as run) begins."""
    seen = 0

    def trace(frame: Any, event: str, _argument: object) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != cleanup.__file__:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                raise Stop
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Stop:
        pass
    finally:
        sys.settrace(before)
    return seen >= line


def test_steps_run_last_first_and_only_what_is_not_kept():
    done: list[str] = []
    with Undo() as undo:
        undo.add(done.append, "kept")
        undo.keep()
        undo.add(done.append, "first")
        undo.add(done.append, "second")
    assert done == ["second", "first"]


def test_every_step_runs_and_the_first_failure_is_raised():
    done: list[int] = []

    def fail(text: str) -> None:
        raise OSError(text)

    with pytest.raises(OSError, match="second") as caught, Undo() as undo:
        undo.add(done.append, 1)
        undo.add(fail, "first")
        undo.add(fail, "second")
        raise KeyError("the block's own")
    assert done == [1]
    assert isinstance(caught.value.__context__, KeyError)


# Python itself reports what is raised in __del__, which is one of the places.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_changed_comes_back_wherever_an_exception_comes_in():
    line = 1
    while True:
        state = {"a": 1, "b": 2}
        handler = signal.getsignal(signal.SIGINT)

        def change(state: dict[str, int] = state) -> None:
            with Undo() as undo:
                for name in ("a", "b"):
                    undo.add(state.__setitem__, name, state[name])
                    state[name] = 0

        reached = raise_at(line, change)
        assert state == {"a": 1, "b": 2}, f"after line event {line}"
        assert signal.getsignal(signal.SIGINT) is handler, f"after line event {line}"
        if not reached:
            break
        line += 1
    assert line > 30


def test_ctrl_c_during_the_steps_is_raised_after_them():
    done: list[str] = []

    def slow(name: str) -> None:
        signal.raise_signal(signal.SIGINT)
        done.append(name)

    with pytest.raises(KeyboardInterrupt), Undo() as undo:
        undo.add(slow, "first")
        undo.add(slow, "second")
    assert done == ["second", "first"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nested_steps_hold_ctrl_c_to_the_outer_end():
    done: list[str] = []

    def inner() -> None:
        with Undo() as undo:
            undo.add(signal.raise_signal, signal.SIGINT)
        done.append("after the inner one")

    with pytest.raises(KeyboardInterrupt), Undo() as undo:
        undo.add(done.append, "last")
        undo.add(inner)
    assert done == ["after the inner one", "last"]


def test_threads_can_undo_too():
    done: list[int] = []

    def work() -> None:
        with Undo() as undo:
            undo.add(done.append, os.getpid())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [os.getpid()]


def test_steps_of_an_unfinished_block_run_when_it_is_dropped():
    done: list[int] = []
    undo = Undo()
    undo.add(done.append, 1)
    del undo
    assert done == [1]


# Stop strikes in __del__ too, when nothing is left to put back.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_context_variable_gets_its_value_back_wherever_an_exception_strikes():
    variable: ContextVar[int] = ContextVar("variable", default=1)

    def use() -> None:
        with setting(variable, 2):
            assert variable.get() == 2

    line = 1
    while raise_at(line, use):
        assert variable.get() == 1, line
        line += 1
    assert line > 5
