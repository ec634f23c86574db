import random

import pytest
import torch

from tl_taskneurons.tasks import prompts
from tl_taskneurons.tasks.batches import make_batches
from tl_taskneurons.tasks.endings import ending_of
from tl_taskneurons.tasks.prompts import Item, Prompt, encode, label_ids
from tl_taskneurons.tasks.task import Example, Task

PAIRS = (("France", "Paris"), ("Italy", "Rome"), ("Peru", "Lima"), ("Japan", "Tokyo"))
EXAMPLES = tuple(Example(*pair) for pair in PAIRS)
CAPITALS = Task("capital", EXAMPLES, EXAMPLES[::-1], "Name it.", metric="exact_match")
FEELINGS = Task("feel", (Example("x", "Good"),), (Example("y", "Bad"),), "", ("Good", "Bad"))


def text(tokenizer, ids) -> str:
    return tokenizer.decode(list(ids))


def test_zero_shot_prompt_reads_as_documented(tokenizer):
    encoded = encode(CAPITALS, tokenizer)
    item = encoded.items[0]
    assert text(tokenizer, item.prompt) == "<bos>Name it.\nInput: Japan\nOutput:"
    assert text(tokenizer, item.answer) == " Tokyo"
    assert text(tokenizer, item.end) == "\n"
    assert (encoded.n_truncated, encoded.n_fewer_shots) == (0, 0)


def test_parts_of_the_prompt_can_be_left_out(tokenizer):
    bare = encode(CAPITALS, tokenizer, prompt=Prompt(instruction=False, bos=False)).items[0]
    assert text(tokenizer, bare.prompt) == "Input: Japan\nOutput:"


def test_shots_come_from_train_never_the_example_itself_and_follow_the_seed(tokenizer):
    prompt = Prompt(shots=2)
    for split in ("train", "test"):
        for item, example in zip(
            encode(CAPITALS, tokenizer, split=split, prompt=prompt).items,
            CAPITALS.split(split),
            strict=True,
        ):
            shown = text(tokenizer, item.prompt)
            assert shown.count("Output: ") == 2
            assert shown.count(f"Input: {example.input}\n") == 1
    again = encode(CAPITALS, tokenizer, prompt=prompt)
    assert again == encode(CAPITALS, tokenizer, prompt=prompt)
    others = [encode(CAPITALS, tokenizer, prompt=Prompt(shots=2, seed=s)) for s in range(1, 6)]
    assert any(other != again for other in others)
    with pytest.raises(ValueError, match="has 4 train examples; 4 shots"):
        encode(CAPITALS, tokenizer, prompt=Prompt(shots=4))


def test_chat_uses_the_template_and_closes_with_eos(tmp_path, tiny_tokenizer):
    tokenizer = tiny_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="no chat template"):
        encode(CAPITALS, tokenizer, prompt=Prompt(chat=True))
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    item = encode(CAPITALS, tokenizer, prompt=Prompt(chat=True), limit=1).items[0]
    assert text(tokenizer, item.prompt) == "[user]Name it.\nJapan[assistant]"
    assert text(tokenizer, item.answer) == "Tokyo"
    assert item.end == (tokenizer.eos_token_id,)
    assert ending_of(tokenizer, Prompt(chat=True)).stops == {tokenizer.eos_token_id}


def test_truncation_keeps_instruction_and_answer_and_is_counted(tokenizer):
    long = Task(
        "long", EXAMPLES, (Example("word " * 50, "end"), EXAMPLES[0]), "Read.", metric="exact_match"
    )
    encoded = encode(long, tokenizer, max_length=60)
    first, second = encoded.items
    assert encoded.n_truncated == 1
    assert len(first) + len(first.end) <= 60
    shown = text(tokenizer, first.prompt)
    assert shown.startswith("<bos>Read.\nInput: word word")
    assert shown.endswith(" wor\nOutput:")
    assert text(tokenizer, first.answer) == " end"
    assert text(tokenizer, second.prompt) == "<bos>Read.\nInput: France\nOutput:"


def test_demonstrations_are_dropped_before_the_input(tokenizer):
    encoded = encode(CAPITALS, tokenizer, prompt=Prompt(shots=3), max_length=80)
    assert encoded.n_truncated == 0
    assert encoded.n_fewer_shots == 4
    assert all("Name it." in text(tokenizer, item.prompt) for item in encoded.items)


def test_an_answer_longer_than_the_context_is_one_clear_error(tokenizer):
    task = Task("huge", EXAMPLES, (Example("in", "out " * 29 + "out"),), metric="exact_match")
    with pytest.raises(
        ValueError, match="Example 0 of task 'huge' does not fit.* within 40 tokens"
    ):
        encode(task, tokenizer, max_length=40)


def test_labels_with_equal_ids_are_refused(tmp_path, tiny_tokenizer):
    ids = label_ids(FEELINGS, tiny_tokenizer(tmp_path), Prompt())
    assert ids["Good"] != ids["Bad"]

    class Blind:
        bos_token_id = eos_token_id = unk_token_id = None

        def __len__(self):
            return 8

        def __call__(self, words, add_special_tokens):
            return {"input_ids": [7] * len(words.split())}

    with pytest.raises(ValueError, match="Labels 'Good' and 'Bad' of task 'feel' have the same"):
        label_ids(FEELINGS, Blind(), Prompt())


def test_plain_text_is_predicted_from_bos_alone(tokenizer):
    task = Task.from_texts("prose", ["Hi."])
    item = encode(task, tokenizer).items[0]
    assert item.prompt == (tokenizer.bos_token_id,)
    assert text(tokenizer, item.answer) == "Hi."
    with pytest.raises(ValueError, match="is empty, so nothing predicts"):
        encode(task, tokenizer, prompt=Prompt(bos=False))


def test_bad_arguments_name_the_value(tokenizer):
    with pytest.raises(ValueError, match="limit is 0"):
        encode(CAPITALS, tokenizer, limit=0)
    with pytest.raises(ValueError, match="shots is -1"):
        Prompt(shots=-1)
    with pytest.raises(ValueError, match="no tokenizer"):
        encode(CAPITALS, None)
    with pytest.raises(ValueError, match="token_budget is 0"):
        list(make_batches(encode(CAPITALS, tokenizer).items, token_budget=0))


def test_batches_hold_every_item_once_within_the_budget():
    rng = random.Random(0)
    items = [
        Item(i, tuple(range(1, rng.randint(2, 30))), tuple(range(rng.randint(1, 6))), (9,))
        for i in range(40)
    ]
    batches = list(make_batches(items, token_budget=64))
    assert sorted(i for batch in batches for i in batch.index) == list(range(40))
    for batch in batches:
        assert batch.tokens.numel() <= 64 or len(batch.index) == 1
        for row, i in enumerate(batch.index):
            n = len(items[i])
            assert tuple(batch.tokens[row, :n].tolist()) == items[i].prompt + items[i].answer
            assert (batch.tokens[row, n:] == 0).all()
            assert int(batch.attention_mask[row].sum()) == n
            at = batch.answer_mask[row].nonzero().flatten()
            assert at.tolist() == list(range(len(items[i].prompt), n))
    widths = [batch.tokens.shape[1] for batch in batches]
    assert widths == sorted(widths)


def test_with_end_the_end_counts_as_answer():
    batch = next(make_batches([Item(0, (1, 2), (3,), (4, 5))], with_end=True))
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5]]
    assert batch.answer_mask.tolist() == [[False, False, True, True, True]]
    assert batch.to("cpu").tokens.equal(batch.tokens)
    assert isinstance(batch.tokens, torch.Tensor)


def test_stop_ids_are_eos_and_every_token_with_a_newline(tokenizer):
    assert ending_of(tokenizer, Prompt()).stops == {tokenizer.eos_token_id, ord("\n")}


def test_wrong_answers_and_counterfactuals_are_tokenised_on_demand(tokenizer):
    example = Example("France", "Paris", wrong=("Rome", "Lima"), counterfactual="Italy")
    task = Task("capital", (example,), (), "Name it.", metric="exact_match")
    (item,) = encode(task, tokenizer, split="train", contrast=True).items
    assert [text(tokenizer, ids) for ids in item.wrong] == [" Rome", " Lima"]
    assert text(tokenizer, item.counterfactual) == "<bos>Name it.\nInput: Italy\nOutput:"
    (plain,) = encode(task, tokenizer, split="train").items
    assert (plain.wrong, plain.counterfactual) == ((), ())
    assert (plain.prompt, plain.answer) == (item.prompt, item.answer)
    # Of a classification example, the other labels are wrong.
    (item,) = encode(FEELINGS, tokenizer, split="train", contrast=True).items
    assert [text(tokenizer, ids) for ids in item.wrong] == [" Bad"]


def test_labels_and_the_order_of_demonstrations_are_made_once(tokenizer, monkeypatch):
    made = []
    labels, shuffle = prompts._labels, random.Random.shuffle
    monkeypatch.setattr(prompts, "_labels", lambda *a: made.append("labels") or labels(*a))
    monkeypatch.setattr(random.Random, "shuffle", lambda *a: made.append("order") or shuffle(*a))
    examples = tuple(Example(f"x{i}", ("Good", "Bad")[i % 2]) for i in range(6))
    task = Task("feel", examples, examples, "", ("Good", "Bad"))
    encode(task, tokenizer, split="train", prompt=Prompt(shots=2), contrast=True)
    assert sorted(made) == ["labels", "order"]


def test_demonstrations_are_the_first_others_in_the_order_of_the_seed(tokenizer):
    for seed in range(4):
        order = [0, 1, 2, 3]
        random.Random(f"{seed}:capital").shuffle(order)
        encoded = encode(CAPITALS, tokenizer, split="train", prompt=Prompt(shots=2, seed=seed))
        for item in encoded.items:
            shown = [f"Input: {PAIRS[j][0]}\n" for j in order if j != item.index][:2]
            places = [text(tokenizer, item.prompt).index(line) for line in shown]
            assert places == sorted(places)


def test_an_input_may_bring_bos_and_a_space_before_the_answer(tokenizer):
    task = Task("t", (), (Example("the film is", "good"),), metric="exact_match")
    prompt = Prompt(raw=True)
    (plain,) = encode(task, tokenizer, prompt=prompt).items
    for written in ("the film is ", f"{tokenizer.bos_token}the film is"):
        other = Task("t", (), (Example(written, "good"),), metric="exact_match")
        (item,) = encode(other, tokenizer, prompt=prompt).items
        assert (item.prompt, item.answer) == (plain.prompt, plain.answer)


def test_no_demonstration_is_the_example_with_other_blanks(tokenizer):
    train = tuple(Example(f"{name} ", name) for name in "abc")
    task = Task("t", train, (Example("b", "b"),), metric="exact_match")
    (item,) = encode(task, tokenizer, prompt=Prompt(shots=2)).items
    assert text(tokenizer, item.prompt).count("Input: b") == 1
