from importlib import resources
from itertools import combinations

import pytest

from tl_taskneurons.builtin.relations import parse_words, relation_names, relation_task
from tl_taskneurons.tasks.task import Task

NAMES = relation_names()


def items(task: Task) -> dict[str, tuple[str, ...]]:
    return {example.input: example.accepted for example in (*task.train, *task.test)}


def test_there_are_at_least_ten_tasks_and_no_word_list_is_left_over():
    folder = resources.files("tl_taskneurons.builtin") / "words"
    files = {file.name for file in folder.iterdir()}
    assert files == {f"{name}.tsv" for name in NAMES}
    assert len(NAMES) == len(set(NAMES)) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_a_list_is_long_and_its_inputs_differ(name: str):
    task = relation_task(name)
    examples = (*task.train, *task.test)
    assert len(examples) >= 120
    assert len({example.input for example in examples}) == len(examples)
    assert len(task.test) == len(examples) // 3
    assert task.metric == "exact_match"
    assert task.family == "relation"
    assert task.instruction.endswith("Reply with the answer only.")


@pytest.mark.parametrize("name", NAMES)
def test_no_answer_repeats_its_input_or_another_answer(name: str):
    for source, accepted in items(relation_task(name)).items():
        folded = [answer.casefold() for answer in accepted]
        assert source.casefold() not in folded, source
        assert len(set(accepted)) == len(accepted), source


@pytest.mark.parametrize("name", NAMES)
def test_the_target_is_the_first_accepted_answer(name: str):
    task = relation_task(name)
    for example in (*task.train, *task.test):
        assert example.accepted[0] == example.target
        assert len(example.references) != 1


@pytest.mark.parametrize("name", ["landmark_country", "city_country"])
def test_places_do_not_name_their_country(name: str):
    for source, accepted in items(relation_task(name)).items():
        assert not any(answer in source.split() for answer in accepted), source


def test_no_pair_of_opposites_stands_in_the_list_both_ways():
    pairs = items(relation_task("antonym"))
    for source, accepted in pairs.items():
        for answer in accepted:
            assert source not in pairs.get(answer, ()), (source, answer)


def test_no_two_lists_have_nearly_the_same_inputs():
    sources = {name: set(items(relation_task(name))) for name in NAMES}
    sources.pop("country_demonym")  # countries again, as in country_capital
    for one, other in combinations(sources, 2):
        shared = sources[one] & sources[other]
        smaller = min(len(sources[one]), len(sources[other]))
        assert len(shared) <= 0.8 * smaller, (one, other, len(shared))


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("country_capital", "Australia", "Canberra"),
        ("landmark_country", "Machu Picchu", "Peru"),
        ("singular_plural", "knife", "knives"),
        ("present_past", "teach", "taught"),
        ("english_german", "snake", "Schlange"),
        ("verb_ing", "knit", "knitting"),
    ],
)
def test_known_items_are_read_as_written(name: str, source: str, target: str):
    assert items(relation_task(name))[source] == (target,)


def test_other_accepted_answers_are_references():
    task = relation_task("country_capital")
    ukraine = next(e for e in (*task.train, *task.test) if e.input == "Ukraine")
    assert ukraine.target == "Kyiv"
    assert ukraine.references == ("Kyiv", "Kiev")
    capital = next(e for e in (*task.train, *task.test) if e.input == "United States")
    assert "Washington, D.C." in capital.references


def test_the_seed_decides_the_split():
    first, again, other = (relation_task("antonym", seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert {e.input for e in first.test} != {e.input for e in other.test}
    assert items(first) == items(other)


def test_the_split_is_by_item_and_takes_a_size():
    task = relation_task("present_past", n_test=40)
    assert len(task.test) == 40
    assert not {e.input for e in task.train} & {e.input for e in task.test}
    assert len(items(task)) == len(task.train) + 40


@pytest.mark.parametrize("n_test", [0, -1, 100_000])
def test_a_split_of_an_impossible_size_is_refused(n_test: int):
    with pytest.raises(ValueError, match=rf"n_test is {n_test}, .*'antonym' has \d+ items"):
        relation_task("antonym", n_test=n_test)


def test_an_unknown_name_brings_the_nearest():
    with pytest.raises(ValueError, match=r"'country_captial'; did you mean 'country_capital'"):
        relation_task("country_captial")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hot\tcold\nbig\n", r"bad\.tsv, line 2: 'big' has 1 columns"),
        ("hot\tcold\tcool\ticy\n", r"bad\.tsv, line 1: .* has 4 columns"),
        ("hot\tcold\n\nbig\tsmall\n", r"bad\.tsv, line 2: '' has 1 columns"),
        ("hot\t\n", r"bad\.tsv, line 1: .* empty field"),
        ("\tcold\n", r"bad\.tsv, line 1: .* empty field"),
        ("hot\tcold\tcool||icy\n", r"bad\.tsv, line 1: .* empty field"),
        ("hot\tcold\t\n", r"bad\.tsv, line 1: .* empty field"),
        ("hot\tcold \n", r"bad\.tsv, line 1: .* spaces around one \('cold '\)"),
        ("hot\tcold\nbig\tsmall\nhot\tcool\n", r"bad\.tsv, line 3: .*'hot' is already in line 1"),
        ("", r"bad\.tsv, line 1: '' has 1 columns"),
    ],
)
def test_a_damaged_list_names_file_and_line(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_words(text, "bad.tsv")
