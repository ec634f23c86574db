"""The commands by name, what their help looks like, and what all of them take."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, get_args

from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.help import DefaultFormatter
from rich.text import Text

from tl_taskneurons import __version__
from tl_taskneurons.cli import (
    continual,
    detection,
    exchange,
    plan,
    reproduce,
    search,
    sets,
    training,
)
from tl_taskneurons.cli.options import (
    Names,
    Source,
    check_device,
    check_sources,
    device_of,
    sharing,
)
from tl_taskneurons.runtime.errors import InputError

# They split their work where torchrun starts several processes.
_SHARED = (
    detection.detect, detection.deactivate, training.finetune, training.apply,
    continual.continual,
)  # fmt: skip
_FOR_ALL = """\
A command's own help, with examples: tl-taskneurons COMMAND --help
Complete names in your shell: tl-taskneurons --install-completion
"""


class _Help(DefaultFormatter):
    """Descriptions as docstrings have them, as running text."""

    def __call__(self, console: Any, options: Any, panel: Any) -> None:
        for entry in panel.entries:
            text = entry.description.primary_renderable.plain
            entry.description.primary_renderable = Text(" ".join(text.replace("``", "").split()))
        super().__call__(console, options, panel)


def _default(value: Any) -> str | None:
    if value is None or value is False or value == ():
        return None
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _whole(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse fractions where whole numbers are needed; they would be rounded without a word."""
    for argument in arguments:
        if int not in _inner(argument.hint) or argument.parameter.converter is not None:
            continue
        for token in argument.tokens:
            if not re.fullmatch(r"[+-]?\d+", token.value.strip()):
                raise InputError(
                    f"{argument.name} is {token.value!r}; it must be a whole number "
                    "(see tl-taskneurons COMMAND --help)."
                )


def _inner(hint: Any) -> list[Any]:
    """The types of which an annotation is made."""
    inside = get_args(hint)
    return [kind for part in inside for kind in _inner(part)] if inside else [hint]


app = App(
    name="tl-taskneurons",
    help="Find the MLP neurons of a language model that carry a task, silence and train them.",
    version=__version__, help_format="plaintext", help_epilogue=_FOR_ALL, help_formatter=_Help(),
    default_parameter=Parameter(negative=(), show_default=_default, allow_repeating=True),
    result_action="return_value", suppress_keyboard_interrupt=False, config=_whole,
)  # fmt: skip
for module in (detection, search, sets, training, exchange, continual, reproduce, plan):
    for command, example in module.COMMANDS.items():
        app.command(command, help_epilogue=example)
app.register_install_completion_command()

app.meta.suppress_keyboard_interrupt = False


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    debug: bool = False,
    plugin: Annotated[Names, Parameter(negative=())] = (),
) -> int:
    """Run a command.

    Args:
        tokens: the command and its options.
        debug: show the traceback of an error.
        plugin: import these modules first, which register methods of your own.
    """
    del debug, plugin  # main heeds them: the help lists what plugins register
    command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    for given in bound.arguments.values():
        if isinstance(given, Source):
            if not given.model and command is not detection.info:
                raise InputError("model is empty; give a name, a Hugging Face id or a folder.")
            check_sources(
                given.data, given.tasks, *filter(None, [given.model]), columns=given.mapping
            )
    device = device_of(bound.arguments.values())
    with sharing(device, shares=command in _SHARED):
        check_device(device)
        return command(*bound.args, **bound.kwargs) or 0


def run(given: Sequence[str]) -> int:
    """Run the command that was given; see ``main`` for its exit codes."""
    if not given:
        raise InputError("no COMMAND was given (see tl-taskneurons --help)")
    return app.meta(given, exit_on_error=False, print_error=False) or 0
