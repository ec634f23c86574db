import copy
import operator
from dataclasses import replace

import pytest

from tl_taskneurons.runtime.errors import did_you_mean
from tl_taskneurons.tasks.task import Example, Task, Tasks, one_task

GOOD = (Example("a", "Good"), Example("b", "Bad"))


def make(**changes) -> Task:
    return Task(**{"name": "t", "train": GOOD, "test": GOOD, "labels": ("Good", "Bad"), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "empty string"),
        ({"metric": "f1"}, "Unknown metric 'f1'"),
        ({"labels": ("Good",)}, "at least two"),
        ({"labels": ("Good", "Good")}, "lists a label twice"),
        ({"test": (Example("a", "Ok"),)}, "Example 0 of the test split .* unknown label 'Ok'"),
        ({"train": (Example("a", " "),), "labels": (), "metric": "exact_match"}, "empty target"),
    ],
)
def test_bad_tasks_are_refused_with_the_value(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_split_names_what_is_wrong():
    task = make(train=())
    assert task.split("test") == GOOD
    with pytest.raises(ValueError, match="train split of task 't' is empty"):
        task.split("train")
    with pytest.raises(ValueError, match="Unknown split 'dev'"):
        task.split("dev")


def test_the_target_is_an_accepted_answer_like_the_references():
    assert Example("x", "y").accepted == ("y",)
    assert Example("x", "y", references=("z", "y")).accepted == ("z", "y")
    assert Example("x", "y", references=("z",)).accepted == ("y", "z")


def test_tasks_answer_to_names_positions_and_slices():
    tasks = Tasks([make(name="one"), make(name="two"), make(name="three")])
    assert tasks["two"] is tasks[1]
    assert tasks[1:].names == ("two", "three")
    assert [task.name for task in tasks] == ["one", "two", "three"]
    with pytest.raises(KeyError, match="did you mean 'three'"):
        tasks["thre"]
    with pytest.raises(ValueError, match="given twice: \\['one'\\]"):
        Tasks([make(name="one"), make(name="one")])


def test_tasks_add_up_and_their_words_fit_a_screen():
    one, two = Tasks([make(name="one")]), make(name="two")
    for both in (one + [two], one + two, one + Tasks([two])):
        assert type(both) is Tasks and both.names == ("one", "two")
    assert ([two] + one).names == ("two", "one")
    with pytest.raises(ValueError, match="given twice"):
        Tasks.__add__(one, one)
    with pytest.raises(TypeError):
        operator.add(one, 3)
    assert repr(two) == "Task('two', 2 train, 2 test, accuracy, labels 'Good', 'Bad')"
    many = Tasks(make(name=f"t{i}") for i in range(60))
    assert len(repr(many).splitlines()) == 23 and "... and 40 more" in repr(many)
    assert repr(Tasks()) == "Tasks()"


def test_one_task_among_tasks_is_a_task():
    one = make(name="one")
    assert one_task(one) is one and one_task(Tasks([one])) is one and one_task([one]) is one
    with pytest.raises(TypeError, match="one task, got Tasks of 2: one, two; give one of them"):
        one_task(Tasks([one, make(name="two")]))


def test_limit_keeps_the_first_examples():
    task = make().limit(n_train=1)
    assert task.train == GOOD[:1]
    assert task.test == GOOD


def test_plain_text_is_all_answer():
    task = Task.from_texts("prose", ["One two.", "Three."])
    assert task.metric == "loss"
    assert [example.target for example in task.train] == ["One two.", "Three."]


def test_did_you_mean_lists_near_names_first():
    assert did_you_mean("zero", ("zeros", "mean")) == "; did you mean 'zeros'? Known: zeros, mean."
    assert did_you_mean("xyz", ("zeros",)) == ". Known: zeros."


def test_longer_inputs_can_be_left_out():
    examples = tuple(Example("x" * n, "yes") for n in (3, 9, 5))
    task = Task("t", examples, examples[:1], metric="exact_match")
    short = task.shorter(5)
    assert [len(e.input) for e in short.train] == [3, 5] and len(short.test) == 1
    assert task.shorter(None) is task
    with pytest.raises(ValueError, match="at most 2 characters; the shortest has 3"):
        task.shorter(2)


@pytest.mark.parametrize(
    ("text", "most", "kept"),
    [
        ("one two three", 13, "one two three"),
        ("one two three", 12, "one two"),
        ("one two three", 7, "one two"),
        ("one two three", 6, "one"),
        ("one\ntwo  three", 9, "one\ntwo"),
        ("unbroken", 3, "unb"),
        ("unbroken line", 3, "unb"),
    ],
)
def test_longer_inputs_can_be_cut_where_a_word_ends(text: str, most: int, kept: str):
    example = Example(text, "yes", references=("yes", "aye"))
    task = Task("t", (example,), (example, Example("no", "no")), metric="exact_match")
    cut = task.cut(most)
    assert [e.input for e in (*cut.train, *cut.test)] == [kept, kept, "no"[:most]]
    assert cut.train[0] == replace(example, input=kept)
    paired = Task("t", (replace(example, counterfactual=text),), (), metric="exact_match")
    assert paired.cut(most).train[0].counterfactual == kept
    assert task.cut(None) is task
    with pytest.raises(ValueError, match="max_chars is 0"):
        task.cut(0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": None}, "input is None .NoneType"),
        ({"target": 3}, "target is 3 .int"),
        ({"label": True}, "label is True .bool"),
        ({"references": "b"}, "references are 'b'"),
        ({"wrong": (1,)}, "wrong is 1 .int"),
        ({"input": "a\ud800"}, "half a character .* position 1"),
    ],
)
def test_an_example_holds_text(fields, message):
    # The tests' own type checks would come before the library's.
    example = copy.copy(GOOD[0])
    for name, value in fields.items():
        object.__setattr__(example, name, value)
    with pytest.raises((TypeError, ValueError), match=message):
        example.__post_init__()


def test_white_space_around_answers_is_taken_away_and_counted():
    with pytest.warns(UserWarning, match=r"3 answers of task 't' .* as ' Good' became 'Good'"):
        task = make(labels=(" Good", "Bad"), train=(Example("a", " Good"), Example("b", "Bad\n")))
    assert task.labels == ("Good", "Bad")
    assert [e.target for e in task.train] == ["Good", "Bad"]
    assert task.limit(1) == make(train=GOOD[:1], test=GOOD)
    texts = Task.from_texts("prose", [" One. "])
    assert texts.train[0].target == " One. "
