"""Forced decoding and generation give one verdict, with tokenizers of six kinds."""

from typing import Any

import helpers
import pytest
import tokenizer_kinds
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tl_taskneurons as tn
from tl_taskneurons.models.generation import eos_ids
from tl_taskneurons.tasks.endings import ending_of
from tl_taskneurons.tasks.prompts import Item, encode, label_ids
from tl_taskneurons.tasks.task import Example, Task

# What the model is taught to say to each input, and whether the task below accepts it.
SAID = {
    "cat": ("it purrs.", True),
    "dog": ("it barks", True),
    "sun": ("shines", True),  # a reference beside the target
    "ice": ("it melts fast", False),  # goes on after the target
    "owl": ("it hoots", False),  # another answer
}
WANTED = {"cat": "it purrs.", "dog": " it barks ", "sun": "it shines", "ice": "it melts"}


def facts() -> Task:
    examples = tuple(
        Example(q, WANTED.get(q, "it flies"), references=("shines", "it glows")) for q in SAID
    )
    with pytest.warns(UserWarning, match="2 answers of task 'facts' began or ended with white"):
        return Task("facts", examples[:1], (*examples, examples[1]), metric="exact_match").limit(
            n_test=len(SAID)
        )


def taught(kind: str, chat: bool) -> Any:
    """A tiny model that says what ``SAID`` holds, written as the tokenizer writes it."""
    plain = [f"Input: {q}\nOutput: {a}\n" for q, (a, _) in SAID.items()]
    tokenizer = tokenizer_kinds.tokenizer_of(kind, [*plain, "it shines. it glows user assistant"])
    turns = [
        [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
        for q, (a, _) in SAID.items()
    ]
    texts = tokenizer.apply_chat_template(turns, tokenize=False) if chat else plain
    bos = [] if chat else [tokenizer.bos_token_id]
    rows = [[*bos, *tokenizer(str(text), add_special_tokens=False)["input_ids"]] for text in texts]
    hf = helpers.tiny_hf("llama", vocab_size=len(tokenizer), eos_token_id=2)
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = ids.masked_fill(ids == 0, -100)
    optimizer = torch.optim.Adam(hf.parameters(), lr=1e-2)
    for _ in range(60):
        loss = hf(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tn.load_model(hf.eval(), tokenizer=tokenizer, device="cpu")


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("kind", tokenizer_kinds.KINDS)
def test_forced_and_generated_exact_match_agree(kind: str, chat: bool):
    model, task, prompt = taught(kind, chat), facts(), tn.Prompt(chat=chat)
    forced = tn.evaluate_items(model, task, prompt=prompt)
    generated = tn.evaluate_items(model, task, prompt=prompt, generation=True, max_new_tokens=24)
    assert generated["prediction"].tolist() == [said for said, _ in SAID.values()]
    assert generated["score"].tolist() == [float(right) for _, right in SAID.values()]
    assert forced["score"].tolist() == generated["score"].tolist()
    assert (forced["loss"][:2] < 0.2).all()  # what is said is what is scored
    cut_off = tn.evaluate_items(model, task, prompt=prompt, generation=True, max_new_tokens=1)
    assert not cut_off["score"].any()
    item = encode(task, model.tokenizer, prompt=prompt).items[0]
    ending = ending_of(model.tokenizer, prompt)
    assert ending.said([*item.answer, *item.end]) == "it purrs."
    assert ending.closes([*item.answer, *item.end])
    assert bool(item.end) == (chat or kind not in ("llama3", "qwen"))
    if chat:
        assert model.tokenizer.decode(list(item.end)) == "<endturn>"


def test_the_ids_of_the_generation_config_end_answers(tokenizer):
    hf = helpers.tiny_hf("llama")
    assert hf.generation_config is not None
    hf.generation_config.eos_token_id = [257, 300]
    for model in helpers.both_classes(hf, tokenizer).values():
        assert eos_ids(model) == {257, 300}
        ending = ending_of(tokenizer, tn.Prompt(), eos_ids(model))
        assert ending.closes([65, 257]) and ending.closes([65, 10]) and not ending.closes([65])
    assert eos_ids(object()) == frozenset()  # pyright: ignore[reportArgumentType]


def test_an_undecided_answer_is_told_from_a_wrong_one(tokenizer):
    ending = ending_of(tokenizer, tn.Prompt())

    def judge(text: str, *accepted: str) -> bool | None:
        return ending.judge(list(text.encode()), ending.forms(accepted))

    assert judge(" Par", "Paris") is None
    assert judge(" Paris", "Paris") is None and judge(" Paris  ", "Paris") is None
    assert judge(" Paris \n", "Paris") is True
    assert judge(" Paris,", "Paris") is False and judge(" Pa\n", "Paris") is False
    assert judge(" Rome", "Paris", "Rome is") is None
    assert ending.judge([*" É".encode()][:2], {"École"}) is None  # half a character


def test_an_answer_that_could_never_be_given_is_refused(tokenizer):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    lines = (Example("a", "one\ntwo"),)
    with pytest.raises(ValueError, match=r"Example 0 of task 'poem' has the answer 'one\\ntwo'"):
        tn.evaluate(model, Task("poem", lines, lines, metric="exact_match"))


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "llama2"])
def test_labels_of_which_one_begins_another_are_ranked_with_their_end(kind: str):
    labels = ("Science", "Science Fiction")
    tokenizer = tokenizer_kinds.tokenizer_of(kind, ["Science Fiction", "Input: x\nOutput: a"])
    examples = (Example("Dune", "Science Fiction"), Example("cells", "Science"))
    task = Task("genre", examples, examples, labels=labels)
    ids = label_ids(task, tokenizer, tn.Prompt())
    written = [str(tokenizer.decode(list(i))).lstrip() for i in ids.values()]
    assert written == [f"{label}\n" for label in labels]
    items = encode(task, tokenizer).items
    assert [(item.answer, item.end) for item in items] == [(ids[e.target], ()) for e in examples]
    # Alone they keep their end apart, as before.
    other = Task("genre", examples[1:], examples[1:], labels=("Science", "Fiction"))
    assert all("\n" not in tokenizer.decode(list(i)) for i in label_ids(
        other, tokenizer, tn.Prompt()).values())  # fmt: skip


def test_a_label_that_is_joined_with_its_end_gives_all_labels_their_end():
    tokenizer = tokenizer_kinds.tokenizer_of("qwen", ["yes.\n", "no", "Input: x\nOutput: a"])
    examples = (Example("a", "yes."), Example("b", "no"))
    task = Task("t", examples, examples, labels=("yes.", "no"))
    ids = label_ids(task, tokenizer, tn.Prompt())
    assert {k: tokenizer.decode(list(i)) for k, i in ids.items()} == {
        "yes.": " yes.\n",
        "no": " no\n",
    }


def test_an_answer_of_unknown_tokens_is_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw: Any = Tokenizer(models.WordLevel({"<unk>": 0, "good": 1, "a": 2}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="a")
    good, bad = Example("a", "good"), Example("a", "☃ ☃")
    task = Task("u", (good,), (good, bad), metric="exact_match")
    with pytest.raises(ValueError, match="'☃ ☃' of example 1 of task 'u' is made of unknown"):
        encode(task, tokenizer)
    with pytest.raises(ValueError, match="label '☃ ☃' of task 'v' is made of unknown"):
        encode(Task("v", (good,), (good,), labels=("good", "☃ ☃")), tokenizer)
    with pytest.raises(ValueError, match="neither a token with a newline nor an EOS token"):
        ending_of(tokenizer, tn.Prompt()).require_sayable(["good"], "Example 0")


def test_items_that_a_model_cannot_read_are_named(tokenizer):
    model = helpers.tiny_lens("gpt2", tokenizer=tokenizer, n_positions=16)
    with pytest.raises(ValueError, match="Item 4 has 18 tokens, more than the context of 16"):
        tn.score_items(model, [Item(4, (5,) * 17, (6,), ())])
    with pytest.raises(
        ValueError, match="Item 2 has the token id 900, but .* has the ids 0 to 263"
    ):
        tn.score_items(model, [Item(2, (5,), (900,), ())])


class Reads(TorchDispatchMode):
    """Counts single numbers read from tensors; on a GPU the processor waits for each."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("metric", [None, "log_prob"], ids=["answers", "metric"])
def test_numbers_are_read_once_a_batch(metric: str | None, tokenizer):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    examples = tuple(Example(f"a{i}", "yn"[i % 2]) for i in range(8))
    task = Task("t", examples, examples, labels=("y", "n"))
    counts = []
    for limit in (2, 8):
        with Reads() as reads:
            tn.evaluate_items(model, task, metric=metric, limit=limit)
        counts.append(reads.count)
    assert counts[0] == counts[1]
