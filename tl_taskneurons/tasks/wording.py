"""How an example is worded: instruction, demonstrations and input, up to its answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import check_types
from tl_taskneurons.tasks.task import Example, Task

_PLAIN = "Input: {input}\nOutput:"
_ANSWER = "{answer}"


@dataclass(frozen=True)
class Prompt:
    r"""How an example becomes text.

    The plain form is ``{instruction}\nInput: {input}\nOutput:`` followed by a space, the answer
    and a newline, the demonstrations of a few-shot prompt standing before it in the same form.
    ``task.show(model, prompt=...)`` prints what the model reads.

    Attributes:
        shots: demonstrations taken from the train split (never the example itself).
        instruction: whether the task's instruction opens the prompt.
        chat: use the tokenizer's chat template instead of the plain form.
        bos: put the tokenizer's BOS first, as TransformerLens does (the plain form only).
        seed: which demonstrations are drawn.
        template: the form of an example up to its answer, e.g. ``"{input} ->"``, in place of
            ``"Input: {input}\nOutput:"``; with ``{instruction}`` where the instruction shall stand
            inside it. The answer follows after a space, after a newline that ends the template, or
            exactly at ``{answer}``, which may end it. In a chat it words the user's turn.
        raw: the template is everything: no instruction stands before it. Without a template the
            prompt is the input alone.
        end: what ends an answer, beside the model's end-of-text tokens (the plain form only);
            empty for these alone.
    """

    shots: int = 0
    instruction: bool = True
    chat: bool = False
    bos: bool = True
    seed: int = 0
    template: str | None = None
    raw: bool = False
    end: str = "\n"

    def __post_init__(self) -> None:
        check_types(Prompt, vars(self))
        if self.shots < 0:
            raise InputError(f"shots is {self.shots}; it must be 0 or more.")
        if self.end and not self.end.strip(" "):
            raise InputError(
                f"end is {self.end!r}; spaces don't end an answer. Give e.g. a newline, or nothing "
                "for the model's end-of-text tokens alone."
            )
        if self.template is not None:
            _check_template(self.template)

    @property
    def form(self) -> str:
        """The template of an example, without the white space before its answer."""
        return self._parts[0]

    @property
    def lead(self) -> str:
        """What stands between the prompt and the answer in the plain form."""
        return self._parts[1]

    @property
    def _parts(self) -> tuple[str, str]:
        # Spaces before an answer belong to its first token.
        written = self.template or ("{input}" if self.raw else _PLAIN)
        body = written.removesuffix(_ANSWER)
        form = body.rstrip(" ")
        added = "" if body != written or form.endswith("\n") else " "
        return form, body[len(form) :] or added


def _check_template(template: str) -> None:
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise InputError(
            f"template is {template!r}, which can't be read ({error}); write braces that are meant "
            "as such twice."
        ) from error
    unknown = [name for name in fields if name not in ("input", "instruction", "answer")]
    late = _ANSWER in template.removesuffix(_ANSWER)
    if "input" not in fields or unknown or late:
        raise InputError(
            f"template is {template!r}; it must have {{input}}, may have {{instruction}}, and may "
            f"end with {{answer}}, but has the fields {fields}."
        )


def prompt_text(
    task: Task, example: Example, shots: Sequence[Example], tokenizer: Any, prompt: Prompt
) -> str:
    """Write everything up to the answer."""
    instruction = task.instruction if prompt.instruction else ""
    inside = "{instruction}" in prompt.form
    opening = f"{instruction}\n" if instruction and not (inside or prompt.raw) else ""

    def worded(one: Example) -> str:
        text = prompt.form.format(input=one.input, instruction=instruction)
        # A space that an input ends in belongs to the answer's first token, which brings its own.
        return text.rstrip(" ") if prompt.lead.startswith(" ") and not prompt.chat else text

    if prompt.chat:
        turns = []
        for shot in (*shots, example):
            content = shot.input if prompt.template is None else worded(shot)
            turns.append({"role": "user", "content": opening + content})
            turns.append({"role": "assistant", "content": task.answer(shot)})
        return apply_template(tokenizer, turns[:-1], add_generation_prompt=True)
    if not example.input and not shots and not instruction and prompt.template is None:
        return ""  # plain text
    end = prompt.end or "\n"
    return (
        opening
        + "".join(f"{worded(shot)}{prompt.lead}{task.answer(shot)}{end}" for shot in shots)
        + worded(example)
    )


def apply_template(tokenizer: Any, turns: list[dict[str, str]], **options: Any) -> str:
    """Write a conversation as the tokenizer's chat template does.

    Raises:
        ValueError: the tokenizer has none.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("This tokenizer has no chat template; use Prompt(chat=False).")
    return tokenizer.apply_chat_template(turns, tokenize=False, **options)
