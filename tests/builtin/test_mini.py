import re

import pytest
import torch

from minis.corpus import documents, prompt_text, vocabulary_texts
from minis.learning import Row, Schedule, answer_loss, batches, fit
from minis.saving import save_mini_model
from minis.train import empty_model
from tl_taskneurons.builtin.mini import mini_names, mini_task
from tl_taskneurons.builtin.mini.lexicon import NUMBERS
from tl_taskneurons.builtin.mini.recipes import RECIPES, TOPICS, TWELVE
from tl_taskneurons.builtin.mini.tokens import build_tokenizer
from tl_taskneurons.builtin.mini_models import mini_model_folder
from tl_taskneurons.loading.tasks import load_tasks

FAMILIES = {"sentiment", "paraphrase", "inference", "summaries", "questions", "data2text"}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(vocabulary_texts())


def test_twelve_tasks_in_six_families_of_two_siblings_and_four_topic_tasks():
    assert mini_names() == TWELVE + TOPICS
    by_family = [RECIPES[name].family for name in TWELVE]
    assert {family: by_family.count(family) for family in by_family} == dict.fromkeys(FAMILIES, 2)
    assert [len(RECIPES[name].labels) for name in TOPICS] == [4, 5, 10, 14]
    assert len({recipe.instruction for recipe in RECIPES.values()}) == 16


@pytest.mark.parametrize("name", mini_names())
def test_default_task_is_balanced_disjoint_and_seeded(name):
    task = mini_task(name)
    assert (len(task.train), len(task.test)) == (2000, 200)
    train, test = ({example.input for example in side} for side in (task.train, task.test))
    assert len(train) == 2000 and len(test) == 200 and not train & test
    for label in task.labels:
        share = sum(example.target == label for example in task.train) * len(task.labels)
        assert abs(share - 2000) < len(task.labels)
    assert task == mini_task(name)
    assert task.test != mini_task(name, n_train=0, seed=1).test


@pytest.mark.parametrize("name", mini_names())
def test_no_seed_brings_a_test_item_into_training(name):
    test = {example.input for example in mini_task(name, n_train=0, seed=0).test}
    other_seed = {example.input for example in mini_task(name, n_test=0, seed=5).train}
    assert not test & other_seed


def test_premises_and_first_sentences_of_test_items_are_new():
    for name in ("mini_scenes", "mini_groups", "mini_reword", "mini_roles"):
        task = mini_task(name)
        firsts = [{re.split("Claim:|Second:", e.input)[0] for e in side}
                  for side in (task.train, task.test)]  # fmt: skip
        if name != "mini_groups":  # there the key holds the claim's quantifier too
            assert not firsts[0] & firsts[1], name


def test_roles_cannot_be_told_by_words_alone():
    # Compare sorted words of both sentences over the labels: the same profile for both.
    task = mini_task("mini_roles", n_train=400)
    for example in task.train:
        first, second = example.input.removeprefix("First: ").split(" Second: ")
        names = [set(re.findall(r"[A-Z][a-z]+", text)) - {"On", "After", "Before"}
                 for text in (first, second)]  # fmt: skip
        assert names[0] == names[1], example


def test_sport_reports_name_the_true_winner():
    for example in mini_task("mini_sport", n_test=0).train:
        words = example.target.rstrip(".").split()
        if " met " in example.input:
            high, low = words[-3], words[-1]
            assert NUMBERS.index(high) > NUMBERS.index(low)
            assert f"{words[0]} scored {high}" in example.input
        else:
            times = [word for word in re.findall(r"\w+", example.input) if word in NUMBERS]
            runners = example.input.split()[0], example.input.split(". ")[1].split()[0]
            first_won = NUMBERS.index(times[0]) < NUMBERS.index(times[1])
            assert words[0] == runners[0 if first_won else 1]


def test_load_tasks_gives_them_by_source_and_by_name():
    twelve = load_tasks("mini", limit=5)
    assert twelve.names == TWELVE
    assert {len(task.train) for task in twelve} == {len(task.test) for task in twelve} == {5}
    (topic,) = load_tasks("mini", "mini_press4", limit=7, seed=3)
    assert topic == load_tasks("builtin", "mini_press4", limit=7, seed=3)[0]
    assert load_tasks("mini", "mini_food")[0] == mini_task("mini_food")
    with pytest.raises(ValueError, match=r"mini_food.*mini_things14"):
        load_tasks("mini", ["food"])


@pytest.mark.parametrize("name", ["mini_foo", "", "food"])
def test_unknown_task_lists_the_names(name):
    with pytest.raises(ValueError, match=r"mini_food.*mini_things14"):
        mini_task(name)


def test_too_many_items_says_how_many_there_are(monkeypatch):
    monkeypatch.setattr("tl_taskneurons.builtin.mini.tasks._PATIENCE", 40)
    with pytest.raises(ValueError, match=r"no more than \d+ test items"):
        mini_task("mini_press4", n_train=0, n_test=20_000)
    with pytest.raises(ValueError, match="0 or more"):
        mini_task("mini_food", n_train=-1)


def test_tokenizer_knows_every_word_and_gives_texts_back(tokenizer):
    assert len(tokenizer) <= 1500
    for name in mini_names():
        task = mini_task(name, n_train=300, seed=9)
        for example in task.train:
            prompt = prompt_text(task.instruction, example.input)
            answer = f" {example.target}\n"
            ids = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
            parts = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompt, answer)]
            assert tokenizer.unk_token_id not in ids
            assert ids == parts[0] + parts[1]
            assert tokenizer.decode(ids) == f" {prompt}{answer}"
            assert len(parts[0]) <= 48
        labels = [tokenizer(f" {x}", add_special_tokens=False)["input_ids"] for x in task.labels]
        assert all(len(ids) == 1 for ids in labels)
    assert tokenizer("Anna")["input_ids"][0] == tokenizer.bos_token_id
    special = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert len(special) == 3


def test_corpus_is_seeded_and_shows_tasks_only_in_passing(tokenizer):
    streams = [documents(1), documents(1), documents(2)]
    texts = [[next(stream) for _ in range(1500)] for stream in streams]
    assert texts[0] == texts[1] != texts[2]
    passing = sum("Output:" in text for text in texts[0]) / 1500
    assert 0.02 < passing < 0.2
    # Only words that stand in the corpus with a capital alone may be unknown.
    known = [tokenizer.unk_token_id not in ids for ids in tokenizer(texts[2])["input_ids"]]
    assert sum(known) > 0.98 * len(known)


def test_corpus_holds_no_test_item():
    inputs = {e.input for name in TWELVE for e in mini_task(name, n_train=0, seed=3).test}
    stream = documents(4)
    for _ in range(1500):
        for line in next(stream).splitlines():
            assert line.removeprefix("Input: ") not in inputs


def test_answer_loss_counts_what_it_should(tokenizer):
    model = empty_model("llama", tokenizer).eval()
    ids = (1, 5, 6, 7, 8)
    logs = model(input_ids=torch.tensor([ids])).logits.log_softmax(-1)[0]
    nats = [-logs[i, ids[i + 1]].item() for i in range(4)]
    long = Row((1, *range(20, 29)), 4)
    alone = answer_loss(model, [Row(ids, 3, 5.0)]).item()
    assert alone == pytest.approx((5 * nats[2] + nats[3]) / 6, rel=1e-4)
    padded = answer_loss(model, [Row(ids, 3, 5.0), long]).item()
    single = answer_loss(model, [long]).item()
    assert padded == pytest.approx((6 * alone + 6 * single) / 12, rel=1e-4)


def test_batches_hold_all_rows_within_the_budget():
    rows = [Row(tuple(range(n))) for n in (3, 9, 4, 4, 8, 3)]
    stream = batches(rows, 12, seed=0)
    seen = []
    while len(seen) < len(rows):
        batch = next(stream)
        assert max(len(row.ids) for row in batch) * len(batch) <= 12
        seen += batch
    assert sorted(len(row.ids) for row in seen) == [3, 3, 4, 4, 8, 9]


@pytest.mark.slow
def test_training_resumes_where_it_stopped(tokenizer, tmp_path):
    stream = documents(0)
    rows = [Row(tuple(ids)) for ids in tokenizer([next(stream) for _ in range(300)])["input_ids"]]
    whole, halves = empty_model("bloom", tokenizer), empty_model("bloom", tokenizer)
    schedule = Schedule(steps=104, tokens=64, warmup=5)
    fit(whole, rows, schedule, name="whole", checkpoint=tmp_path / "c.safetensors")
    fit(halves, rows, schedule, name="rest", checkpoint=tmp_path / "c.safetensors")
    for one, two in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(one, two)
    untouched = empty_model("bloom", tokenizer)
    loss_before, loss_after = (answer_loss(m, rows[:50]).item() for m in (untouched, whole))
    assert loss_after < loss_before - 1


def test_unknown_model_lists_the_names():
    with pytest.raises(ValueError, match=r"mini-llama, .*mini-bloom-base"):
        mini_model_folder("mini-gpt")


def test_damaged_weights_are_recognised(tokenizer, tmp_path):
    save_mini_model(empty_model("llama", tokenizer), tokenizer, "mini-llama", root=tmp_path)
    folder = mini_model_folder("mini-llama", root=tmp_path)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="are damaged: their SHA-256"):
        mini_model_folder("mini-llama", root=tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        mini_model_folder("mini-llama", root=tmp_path)
