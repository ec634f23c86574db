"""Progress bars in Jupyter, by ipywidgets; with the methods that rich's bars have."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass
class _Bar:
    title: str
    total: int | float
    done: int | float
    widget: Any = None

    @property
    def facts(self) -> dict[str, Any]:
        """What the widget shows."""
        return {"max": max(self.total, 1), "value": self.done, "description": self.title}


class WidgetBars:
    """Bars below a cell, which are gone when they are stopped."""

    def __init__(self) -> None:
        self._bars: list[_Bar] = []
        self._shown = False

    @property
    def task_ids(self) -> list[int]:
        """The bars' numbers."""
        return list(range(len(self._bars)))

    def start(self) -> None:
        """Show the bars."""
        self._shown = True
        for bar in self._bars:
            _draw(bar)

    def stop(self) -> None:
        """Take the bars away."""
        self._shown = False
        for bar in self._bars:
            if bar.widget is not None:
                bar.widget.close()

    def add_task(
        self, description: str, *, total: int | float, completed: int | float = 0.0
    ) -> int:
        """Add a bar and return its number."""
        self._bars.append(_Bar(description, total, completed))
        if self._shown:
            _draw(self._bars[-1])
        return len(self._bars) - 1

    def update(
        self, task: int, *, advance: int | float = 0.0, description: str | None = None
    ) -> None:
        """Move a bar, or change what it says."""
        bar = self._bars[task]
        bar.done += advance
        bar.title = bar.title if description is None else description
        if bar.widget is not None:
            for name, value in bar.facts.items():
                setattr(bar.widget, name, value)


def _draw(bar: _Bar) -> None:
    widgets: Any = import_module("ipywidgets")
    wide = widgets.Layout(width="40rem")
    bar.widget = widgets.FloatProgress(
        **bar.facts, layout=wide, style={"description_width": "initial"}
    )
    import_module("IPython.display").display(bar.widget)
