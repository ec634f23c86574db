import pytest

from tl_taskneurons.tasks.endings import ending_of
from tl_taskneurons.tasks.prompts import Prompt, encode
from tl_taskneurons.tasks.task import Example, Task

TRAIN = (Example("Peru", "Lima"), Example("Italy", "Rome"))
CAPITALS = Task("capital", TRAIN, (Example("Japan", "Tokyo"),), "Name it.", metric="exact_match")


def read(tokenizer, prompt: Prompt) -> tuple[str, str, str]:
    item = encode(CAPITALS, tokenizer, prompt=prompt).items[0]
    return tuple(tokenizer.decode(list(ids)) for ids in (item.prompt, item.answer, item.end))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (Prompt(template="{input} ->"), ("<bos>Name it.\nJapan ->", " Tokyo", "\n")),
        (Prompt(template="{input} ->", raw=True), ("<bos>Japan ->", " Tokyo", "\n")),
        (Prompt(template="{input} -> ", raw=True), ("<bos>Japan ->", " Tokyo", "\n")),
        (Prompt(template="{input}→{answer}", raw=True), ("<bos>Japan→", "Tokyo", "\n")),
        (Prompt(template="Q: {input}\nA:\n"), ("<bos>Name it.\nQ: Japan\nA:\n", "Tokyo", "\n")),
        (Prompt(template="{instruction} {input}:", bos=False), ("Name it. Japan:", " Tokyo", "\n")),
        (Prompt(template="{{{input}}}", raw=True), ("<bos>{Japan}", " Tokyo", "\n")),
        (Prompt(raw=True, end="\n\n"), ("<bos>Japan", " Tokyo", "\n\n")),
        (Prompt(raw=True, end=""), ("<bos>Japan", " Tokyo", "<eos>")),
    ],
)
def test_a_template_words_the_prompt(tokenizer, prompt, expected):
    assert read(tokenizer, prompt) == expected


def test_demonstrations_have_the_form_and_the_end_of_the_template(tokenizer):
    shown = read(tokenizer, Prompt(template="{input} =", raw=True, shots=2, end=";\n"))[0]
    lines = {"Peru = Lima;", "Italy = Rome;"}
    assert set(shown.removeprefix("<bos>").split("\n")) == {*lines, "Japan ="}


def test_an_end_of_several_characters_ends_an_answer_where_it_is_complete(tokenizer):
    ending = ending_of(tokenizer, Prompt(end="\n\n"))
    ids = list(b" one\ntwo\n\n")
    assert [ending.closes(ids[:k]) for k in range(1, len(ids) + 1)] == [False] * 9 + [True]
    assert ending.said(ids) == "one\ntwo"
    assert ending.judge(ids, {"one\ntwo"}) is True
    assert ending.judge(ids[:-1], {"one\ntwo"}) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"template": "Say:"}, r"must have \{input\}.* has the fields \[\]"),
        ({"template": "{text}"}, r"has the fields \['text'\]"),
        ({"template": "{answer} {input}"}, r"may end with \{answer\}"),
        ({"template": "{input"}, "can't be read"),
        ({"end": " "}, "spaces don't end an answer"),
    ],
)
def test_a_bad_form_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Prompt(**arguments)


def test_show_prints_what_the_model_reads(tokenizer, capsys):
    CAPITALS.show(tokenizer, prompt=Prompt(template="{input} ->", raw=True))
    assert capsys.readouterr().out.splitlines() == [
        "Example 0 of the test split of 'capital': 16 tokens, of which 6 between the brackets are "
        "scored.",
        "<bos>Japan ->⟦ Tokyo⟧",
        "tokens: '<bos>' 'J' 'a' 'p' 'a' 'n' ' ' '-' '>' ⟦' ' 'T' 'o' 'k' 'y' 'o'⟧",
        r"end:    '\n' (expected after the answer, and learnt)",
    ]
