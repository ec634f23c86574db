"""From a task's examples to token batches: prompts, answers, truncation and padding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from random import Random
from typing import Any

from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.endings import Ending, ending_of
from tl_taskneurons.tasks.task import Example, Task
from tl_taskneurons.tasks.tokens import Ids, answer_ids, token_ids
from tl_taskneurons.tasks.wording import Prompt, prompt_text


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
        max_length: the most tokens of prompt, answer (of labels the longest) and end together;
            longer examples lose demonstrations first, then the end of their input, never
            instruction or answer.
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
    words: dict[str, tuple[Ids, ...]] = {}
    with_end, longest = False, 0
    if task.is_classification:
        words, with_end, longest = _labels(task, tokenizer, prompt)
    order = _shuffled(task, prompt)
    items: list[Item] = []
    n_truncated = n_fewer = 0
    for i, example in enumerate(examples):
        shots = _demonstrations(task, example, i if split == "train" else None, order, prompt)
        item, cut, fewer = _fit(task, example, i, shots, tokenizer, prompt, max_length, longest)
        if with_end:
            item = replace(item, answer=item.answer + item.end, end=())
        if contrast:
            wrong = _wrong_ids(task, example, tokenizer, prompt, words)
            other: tuple[int, ...] = ()
            if example.counterfactual is not None:
                changed = replace(example, input=example.counterfactual)
                changed_item, *lost = _fit(
                    task, changed, i, shots, tokenizer, prompt, max_length, longest
                )
                other = changed_item.prompt
                cut, fewer = cut or lost[0], fewer or lost[1]
            item = replace(item, wrong=wrong, counterfactual=other)
        items.append(item)
        n_truncated += cut
        n_fewer += fewer
    return Encoded(tuple(items), n_truncated, n_fewer)


def label_ids(task: Task, tokenizer: Any, prompt: Prompt) -> dict[str, Ids]:
    """Return the token ids of each label, or of its first word; see ``word_ids``."""
    return {label: ids[0] for label, ids in word_ids(task, tokenizer, prompt).items()}


def word_ids(task: Task, tokenizer: Any, prompt: Prompt) -> dict[str, tuple[Ids, ...]]:
    """Return the token ids of each label's words as answers to the task's prompt.

    Where one word begins another, or the tokenizer joins a word with its end, all words have
    their end as well: one could otherwise never be more probable than its own beginning.

    Raises:
        ValueError: when two words have the same ids, so that ranking could not tell them apart,
            one is all unknown tokens, or nothing ends one that begins another.
    """
    return _labels(task, tokenizer, prompt)[0]


def _labels(
    task: Task, tokenizer: Any, prompt: Prompt
) -> tuple[dict[str, tuple[Ids, ...]], bool, int]:
    """The ids of the labels' words, whether they have their end, and the most tokens with it."""
    ending = ending_of(tokenizer, prompt)
    probe = Example(input="x", target=task.labels[0])
    text = prompt_text(task, probe, (), tokenizer, prompt)
    words = [word for label in task.labels for word in task.words(label)]
    pairs = {word: _answer(ending, text, word) for word in words}
    owner: dict[Ids, str] = {}
    for word, (ids, end) in pairs.items():
        _require_known(tokenizer, ids, f"The label {word!r} of task {task.name!r}")
        if ids in owner:
            raise InputError(
                f"Labels {owner[ids]!r} and {word!r} of task {task.name!r} have the same "
                f"token ids {list(ids)} in this tokenizer; rename one of them."
            )
        owner[ids] = word
        longer = next((o for o, (i, _) in pairs.items() if o != word and _begins(ids, i)), None)
        if longer is not None and not end:
            raise InputError(
                f"Label {word!r} of task {task.name!r} begins label {longer!r} in this tokenizer, "
                "and no token ends an answer, so the longer could never win; rename one of them."
            )
    with_end = _with_end(pairs)
    whole = {word: ids + end if with_end else ids for word, (ids, end) in pairs.items()}
    by_label = {label: tuple(whole[word] for word in task.words(label)) for label in task.labels}
    return by_label, with_end, max(len(ids) + len(end) for ids, end in pairs.values())


def _with_end(pairs: Mapping[str, tuple[Ids, Ids]]) -> bool:
    """Whether labels are ranked with their end; ``pairs`` are the ids of labels and ends."""
    answers = [ids for ids, _ in pairs.values()]
    joined = len({bool(end) for _, end in pairs.values()}) > 1
    return joined or any(_begins(a, b) for a in answers for b in answers if a is not b)


def _begins(short: Ids, long: Ids) -> bool:
    return len(short) < len(long) and long[: len(short)] == short


def shared_prefix(items: Sequence[Item]) -> tuple[int, ...]:
    """Return the tokens with which all prompts begin, short of the last token of any.

    Empty where fewer than 8 tokens or fewer than 2 items share it: then it saves nothing.
    """
    if len(items) < 2:
        return ()
    prompts = [item.prompt for item in items]
    most = min(map(len, prompts)) - 1
    first = prompts[0]
    n = next((k for k in range(most) if any(p[k] != first[k] for p in prompts)), most)
    return first[:n] if n >= 8 else ()


def _wrong_ids(
    task: Task, example: Example, tokenizer: Any, prompt: Prompt, words: Mapping[str, Sequence[Ids]]
) -> tuple[Ids, ...]:
    """Tokenise an example's wrong answers: its own, or for classification all other labels."""
    known = {label: ids[0] for label, ids in words.items()}
    if task.is_classification and not example.wrong:
        return tuple(known[label] for label in task.labels if label != example.target)
    ending = ending_of(tokenizer, prompt)
    text = prompt_text(task, example, (), tokenizer, prompt)
    return tuple(
        known[answer] if answer in known else _answer(ending, text, answer)[0]
        for answer in example.wrong
    )


def _shuffled(task: Task, prompt: Prompt) -> list[int]:
    """Return the order in which training examples are taken as demonstrations."""
    order = list(range(len(task.split("train")) if prompt.shots else 0))
    Random(f"{prompt.seed}:{task.name}").shuffle(order)
    return order


def _demonstrations(
    task: Task, example: Example, own: int | None, order: Sequence[int], prompt: Prompt
) -> tuple[Example, ...]:
    """Take the same demonstrations for every example, skipping the example itself."""
    if not prompt.shots:
        return ()
    pool = task.split("train")
    asked = example.input.strip()
    others = (pool[j] for j in order if j != own and pool[j].input.strip() != asked)
    chosen = tuple(islice(others, prompt.shots))
    if len(chosen) < prompt.shots:
        raise InputError(
            f"Task {task.name!r} has {len(pool)} train examples; {prompt.shots} shots need "
            "that many besides the example itself."
        )
    return chosen


def _fit(
    task: Task,
    example: Example,
    index: int,
    shots: tuple[Example, ...],
    tokenizer: Any,
    prompt: Prompt,
    max_length: int | None,
    longest: int,
) -> tuple[Item, bool, bool]:
    """Tokenise one example; drop shots, then the end of the input, until it fits.

    An answer has room for ``longest`` tokens at least, so that every label fits after every input
    and the length of an input doesn't tell its label.
    """
    n_shots = len(shots)
    item = _item(task, example, index, shots, tokenizer, prompt)
    if max_length is None:
        return item, False, False

    def excess(candidate: Item) -> int:
        said = max(len(candidate.answer) + len(candidate.end), longest)
        return len(candidate.prompt) + said - max_length

    while excess(item) > 0 and shots:
        shots = shots[:-1]
        item = _item(task, example, index, shots, tokenizer, prompt)
    input_ids = token_ids(tokenizer, example.input)
    keep = len(input_ids)
    while excess(item) > 0:
        keep -= excess(item)
        if keep < 1:
            raise InputError(
                f"Example {index} of task {task.name!r} does not fit: its instruction and answer "
                f"({len(item.answer)} tokens) leave no room for the input within {max_length} "
                "tokens. Shorten the instruction or the answer, generate fewer tokens, or take a "
                "model of longer context."
            )
        shorter = replace(example, input=tokenizer.decode(input_ids[:keep]).rstrip())
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
    where = f"example {index} of task {task.name!r}"
    text = prompt_text(task, example, shots, tokenizer, prompt)
    said = task.answer(example)
    answer, end = _answer(ending_of(tokenizer, prompt), text, said)
    if not answer:
        raise InputError(f"The answer {said!r} of {where} has no tokens.")
    _require_known(tokenizer, answer, f"The answer {said!r} of {where}")
    prompt_ids = token_ids(tokenizer, text)
    bos = tokenizer.bos_token_id
    # An input may begin with it as text, as those of chat templates do.
    if prompt.bos and not prompt.chat and bos is not None and prompt_ids[:1] != (bos,):
        prompt_ids = (bos, *prompt_ids)
    if not prompt_ids:
        raise InputError(
            f"The prompt of example {index} of task {task.name!r} is empty, so nothing predicts "
            "its first token: use a tokenizer with a BOS token and Prompt(bos=True)."
        )
    return Item(index, tuple(prompt_ids), answer, end)


def _answer(ending: Ending, text: str, target: str) -> tuple[Ids, Ids]:
    """Tokenise an answer and its end as they follow a prompt."""
    answer = ending.lead + target if text else target
    ids, end = answer_ids(ending.tokenizer, text, answer, ending.text)
    eos = getattr(ending.tokenizer, "eos_token_id", None)
    if end or eos is None or ids != answer_ids(ending.tokenizer, text, answer, "")[0]:
        return ids, end
    return ids, (eos,)  # the tokenizer has no token for a newline


def _require_known(tokenizer: Any, ids: Ids, what: str) -> None:
    """Raise ValueError where a text is made of unknown tokens alone."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown in ids and all(i == unknown or not tokenizer.decode([i]).strip() for i in ids):
        raise InputError(
            f"{what} is made of unknown tokens alone ({list(ids)}): this tokenizer has no token "
            "for it, so any other unknown text would count as the same. Write it otherwise, or "
            "use a model whose tokenizer knows it."
        )
