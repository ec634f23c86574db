"""From a task's examples to token batches: prompts, answers, truncation and padding."""

from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import Any

from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.task import Example, Task


@dataclass(frozen=True)
class Prompt:
    r"""How an example becomes text.

    The plain form is ``{instruction}\nInput: {input}\nOutput:`` followed by a space, the answer
    and a newline, the demonstrations of a few-shot prompt standing before it in the same form.

    Attributes:
        shots: demonstrations taken from the train split (never the example itself).
        instruction: whether the task's instruction opens the prompt.
        chat: use the tokenizer's chat template instead of the plain form.
        bos: put the tokenizer's BOS first, as TransformerLens does (the plain form only).
        seed: which demonstrations are drawn.
    """

    shots: int = 0
    instruction: bool = True
    chat: bool = False
    bos: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise InputError(f"shots is {self.shots}; it must be 0 or more.")


@dataclass(frozen=True)
class Item:
    """One tokenised example.

    Attributes:
        index: position of the example in its split.
        prompt: token ids up to the answer.
        answer: token ids of the answer alone.
        end: token ids that close the answer (a newline, or the end of the chat turn).
        wrong: token ids of the wrong answers, where they were asked for.
        counterfactual: token ids of the counterfactual prompt, where it was asked for.
    """

    index: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    end: tuple[int, ...]
    wrong: tuple[tuple[int, ...], ...] = ()
    counterfactual: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Encoded:
    """The tokenised examples of one split.

    Attributes:
        items: one per example, in the order of the split.
        n_truncated: examples whose input was shortened to fit the context.
        n_fewer_shots: examples that lost demonstrations to fit the context.
    """

    items: tuple[Item, ...]
    n_truncated: int
    n_fewer_shots: int


def encode(
    task: Task,
    tokenizer: Any,
    *,
    split: str = "test",
    prompt: Prompt = Prompt(),
    limit: int | None = None,
    max_length: int | None = None,
    contrast: bool = False,
) -> Encoded:
    """Tokenise one split of a task.

    Args:
        task: the task.
        tokenizer: a Hugging Face tokenizer.
        split: ``"train"`` or ``"test"``.
        prompt: the form of the prompt.
        limit: at most the first ``limit`` examples.
        max_length: the most tokens of prompt, answer and end together; longer examples lose
            demonstrations first, then the end of their input, never instruction or answer.
        contrast: tokenise the examples' wrong answers and counterfactual inputs as well.

    Raises:
        ValueError: when the split is empty, an answer has no tokens, the instruction and the
            answer alone exceed ``max_length``, or two labels tokenise to the same ids.
    """
    if tokenizer is None:
        raise InputError("The model has no tokenizer; load it with one or set model.tokenizer.")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; it must be at least 1, or None for all examples.")
    examples = task.split(split)[:limit]
    if task.is_classification:
        label_ids(task, tokenizer, prompt)
    items: list[Item] = []
    n_truncated = n_fewer = 0
    for i, example in enumerate(examples):
        shots = _demonstrations(task, example, i, split, prompt)
        item, cut, fewer = _fit(task, example, i, shots, tokenizer, prompt, max_length)
        if contrast:
            wrong = _wrong_ids(task, example, tokenizer, prompt)
            other: tuple[int, ...] = ()
            if example.counterfactual is not None:
                changed = replace(example, input=example.counterfactual)
                other = _fit(task, changed, i, shots, tokenizer, prompt, max_length)[0].prompt
            item = replace(item, wrong=wrong, counterfactual=other)
        items.append(item)
        n_truncated += cut
        n_fewer += fewer
    return Encoded(tuple(items), n_truncated, n_fewer)


def label_ids(task: Task, tokenizer: Any, prompt: Prompt) -> dict[str, tuple[int, ...]]:
    """Return the token ids of each label as an answer to the task's prompt.

    Raises:
        ValueError: when two labels have the same ids, so that ranking could not tell them apart.
    """
    probe = Example(input="x", target=task.labels[0])
    text = _prompt_text(task, probe, (), tokenizer, prompt)
    prompt_ids = _ids(tokenizer, text)
    ids = {
        label: _answer_ids(tokenizer, text, prompt_ids, label, prompt)[0] for label in task.labels
    }
    owner: dict[tuple[int, ...], str] = {}
    for label, label_tokens in ids.items():
        if label_tokens in owner:
            raise InputError(
                f"Labels {owner[label_tokens]!r} and {label!r} of task {task.name!r} have the same "
                f"token ids {list(label_tokens)} in this tokenizer; rename one of them."
            )
        owner[label_tokens] = label
    return ids


def _wrong_ids(
    task: Task, example: Example, tokenizer: Any, prompt: Prompt
) -> tuple[tuple[int, ...], ...]:
    """Tokenise an example's wrong answers: its own, or for classification all other labels."""
    wrong = example.wrong or [label for label in task.labels if label != example.target]
    text = _prompt_text(task, example, (), tokenizer, prompt)
    ids = _ids(tokenizer, text)
    return tuple(_answer_ids(tokenizer, text, ids, answer, prompt)[0] for answer in wrong)


@lru_cache(maxsize=4)
def stop_ids(tokenizer: Any, prompt: Prompt) -> frozenset[int]:
    """Return the ids that end an answer: EOS, and in the plain form every token with a newline."""
    stops = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    if not prompt.chat:
        vocabulary = sorted(tokenizer.get_vocab().values())
        texts = tokenizer.batch_decode([[i] for i in vocabulary])
        stops |= {i for i, text in zip(vocabulary, texts, strict=True) if "\n" in text}
    return frozenset(stops)


def _demonstrations(
    task: Task, example: Example, index: int, split: str, prompt: Prompt
) -> tuple[Example, ...]:
    """Draw the same demonstrations for every example, skipping the example itself."""
    if not prompt.shots:
        return ()
    pool = task.split("train")
    order = list(range(len(pool)))
    Random(f"{prompt.seed}:{task.name}").shuffle(order)
    if split == "train":
        order.remove(index)
    chosen = [pool[j] for j in order if pool[j].input != example.input][: prompt.shots]
    if len(chosen) < prompt.shots:
        raise InputError(
            f"Task {task.name!r} has {len(pool)} train examples; {prompt.shots} shots need "
            "that many besides the example itself."
        )
    return tuple(chosen)


def _fit(
    task: Task,
    example: Example,
    index: int,
    shots: tuple[Example, ...],
    tokenizer: Any,
    prompt: Prompt,
    max_length: int | None,
) -> tuple[Item, bool, bool]:
    """Tokenise one example; drop shots, then the end of the input, until it fits."""
    n_shots = len(shots)
    item = _item(task, example, index, shots, tokenizer, prompt)
    if max_length is None:
        return item, False, False

    def excess(candidate: Item) -> int:
        return len(candidate) + len(candidate.end) - max_length

    while excess(item) > 0 and shots:
        shots = shots[:-1]
        item = _item(task, example, index, shots, tokenizer, prompt)
    input_ids = _ids(tokenizer, example.input)
    keep = len(input_ids)
    while excess(item) > 0:
        keep -= excess(item)
        if keep < 1:
            raise InputError(
                f"Example {index} of task {task.name!r} does not fit: its instruction and answer "
                f"({len(item.answer)} tokens) leave no room for the input within {max_length} "
                "tokens. Shorten the instruction or the answer, or raise max_length."
            )
        shorter = Example(tokenizer.decode(input_ids[:keep]).rstrip(), example.target)
        item = _item(task, shorter, index, shots, tokenizer, prompt)
    return item, keep < len(input_ids), len(shots) < n_shots


def _item(
    task: Task,
    example: Example,
    index: int,
    shots: tuple[Example, ...],
    tokenizer: Any,
    prompt: Prompt,
) -> Item:
    text = _prompt_text(task, example, shots, tokenizer, prompt)
    prompt_ids = _ids(tokenizer, text)
    answer, end = _answer_ids(tokenizer, text, prompt_ids, example.target, prompt)
    if not answer:
        raise InputError(
            f"The answer {example.target!r} of example {index} of task {task.name!r} has no tokens."
        )
    if prompt.bos and not prompt.chat and tokenizer.bos_token_id is not None:
        prompt_ids = (tokenizer.bos_token_id, *prompt_ids)
    if not prompt_ids:
        raise InputError(
            f"The prompt of example {index} of task {task.name!r} is empty, so nothing predicts "
            "its first token: use a tokenizer with a BOS token and Prompt(bos=True)."
        )
    return Item(index, tuple(prompt_ids), answer, end)


def _prompt_text(
    task: Task, example: Example, shots: tuple[Example, ...], tokenizer: Any, prompt: Prompt
) -> str:
    """Write everything up to the answer."""
    instruction = task.instruction if prompt.instruction else ""
    if prompt.chat:
        if not getattr(tokenizer, "chat_template", None):
            raise InputError("This tokenizer has no chat template; use Prompt(chat=False).")
        turns = []
        for shot in (*shots, example):
            content = f"{instruction}\n{shot.input}" if instruction else shot.input
            turns.append({"role": "user", "content": content})
            turns.append({"role": "assistant", "content": shot.target})
        return tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    if not example.input and not shots and not instruction:
        return ""
    parts = [f"{instruction}\n"] if instruction else []
    parts += [f"Input: {shot.input}\nOutput: {shot.target}\n" for shot in shots]
    return "".join(parts) + f"Input: {example.input}\nOutput:"


def _answer_ids(
    tokenizer: Any, text: str, prompt_ids: tuple[int, ...], target: str, prompt: Prompt
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokenise the answer and its end as they follow the prompt.

    Tokenising prompt and answer together keeps the answer's first token natural with every
    tokenizer (some put a space of their own before a string); where the prompt's tokens would
    change by it, the answer is tokenised alone.
    """
    answer = target if prompt.chat or not text else f" {target}"
    end = (tokenizer.eos_token or "") if prompt.chat else "\n"
    answer_ids = _continue(tokenizer, text, prompt_ids, answer)
    return answer_ids, _continue(tokenizer, text + answer, (*prompt_ids, *answer_ids), end)


def _continue(tokenizer: Any, text: str, ids: tuple[int, ...], more: str) -> tuple[int, ...]:
    joint = _ids(tokenizer, text + more)
    if len(joint) > len(ids) and joint[: len(ids)] == ids:
        return joint[len(ids) :]
    return _ids(tokenizer, more)


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return _tokenised(tokenizer, len(tokenizer), text) if text else ()


# The same examples are encoded for every training and every evaluation.
@lru_cache(maxsize=65_536)
def _tokenised(tokenizer: Any, vocabulary: int, text: str) -> tuple[int, ...]:  # noqa: ARG001
    """Tokenise a text; ``vocabulary`` is there so that added tokens are not missed."""
    # Without special tokens: the tokenizer TransformerLens holds puts a BOS before every string.
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
