from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import helpers
import pytest
import torch

from tl_taskneurons.analysis.explain import explain_neuron, explain_neurons
from tl_taskneurons.analysis.lens import output_effects, token_effects, token_texts
from tl_taskneurons.models.forward import answer_losses
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.attribution import score_neurons
from tl_taskneurons.tasks.batches import make_batches
from tl_taskneurons.tasks.prompts import Prompt, encode
from tl_taskneurons.tasks.task import Example, Task

KINDS = ("bridge", pytest.param("hooked", marks=pytest.mark.needs("hooked")))
NEURONS = [(1, 7), (0, 3), (1, 40)]
SHOTS = Prompt(shots=2)


@pytest.fixture(scope="module")
def task() -> Task:
    words = ("ash", "oak", "a willow", "elm", "birches", "fir")
    examples = tuple(Example(word, word.upper()) for word in words)
    return Task("upper", examples, examples[:2], instruction="Shout.", metric="exact_match")


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    return helpers.tiny_lens("llama", request.param, tokenizer=tokenizer)


def plainly(model: Any, task: Task, prompt: Prompt) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each example's activations and relevances [layer, pos, d_mlp], one example at a time."""
    model_view = view(model)
    encoded = encode(task, model.tokenizer, split="train", prompt=prompt)
    found = []
    for item in encoded.items:
        (batch,) = make_batches([item])
        kept: list[torch.Tensor] = []

        def keep(activation: torch.Tensor, hook: Any, kept: list = kept) -> torch.Tensor:
            kept.append(activation)
            activation.retain_grad()
            return activation

        hooks = [(layer.hook, keep) for layer in model_view.layers]
        with model.hooks(fwd_hooks=hooks):
            answer_losses(model_view, batch).sum().backward()
        gradients = [one.grad for one in kept]
        model.zero_grad(set_to_none=True)
        activations = torch.stack([one.detach()[0] for one in kept])
        found.append((activations, activations * torch.stack([g[0] for g in gradients])))  # pyright: ignore[reportOptionalSubscript]
    return found


@pytest.mark.parametrize("by", ["activation", "relevance"])
def test_numbers_and_ranking_are_those_of_one_example_at_a_time(model: Any, task: Task, by: Any):
    expected = plainly(model, task, SHOTS)
    explained = explain_neurons(
        model, NEURONS, task, prompt=SHOTS, by=by, n_examples=4, token_budget=200
    )
    assert [one.neuron for one in explained] == NEURONS
    scores = score_neurons(model, task, prompt=SHOTS)
    for one in explained:
        layer, j = one.neuron
        sums = [abs(relevances[layer, :, j].sum().item()) for _, relevances in expected]
        assert one.score == pytest.approx(sum(sums) / len(sums), rel=1e-4)
        assert one.score == pytest.approx(scores.values[layer, j].item(), rel=1e-5)
        assert one.n_seen == 6 and len(one.examples) == 4
        for shown in one.examples:
            activations, relevances = (values[layer, :, j] for values in expected[shown.index])
            assert len(shown.tokens) == len(activations)
            assert shown.activations == pytest.approx(activations.tolist(), rel=1e-4, abs=1e-6)
            assert shown.relevances == pytest.approx(relevances.tolist(), rel=1e-3, abs=1e-7)
            assert abs(shown.activation) == max(map(abs, shown.activations[shown.own :]))
        if by == "relevance":
            ranked = sorted(range(6), key=sums.__getitem__, reverse=True)
            assert [shown.index for shown in one.examples] == ranked[:4]


def test_pairs_of_a_tensor_or_a_generator_are_pairs_of_numbers(model: Any, task: Task):
    expected = explain_neurons(model, NEURONS, task, n_examples=2)
    given = torch.tensor(NEURONS)
    for neurons in (given, iter(NEURONS)):
        found = explain_neurons(model, neurons, task, n_examples=2)
        assert found == expected
        assert all(type(number) is int for one in found for number in one.neuron)
    alone = explain_neuron(model, given[1], task, n_examples=2)
    assert alone.neuron == (0, 3) and alone.examples and alone.score > 0


def test_examples_are_ranked_by_their_own_tokens(model: Any, task: Task):
    shown = explain_neuron(model, (1, 7), task, prompt=SHOTS, n_examples=6).examples
    peaks = [abs(one.activation) for one in shown]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) > 1
    for one in shown:
        # The own part: nothing of instruction and demonstrations, and the whole example.
        own = "".join(one.tokens[one.own :])
        word = task.train[one.index].input
        assert own == f"{word}\nOutput: {word.upper()}"
        assert "".join(one.tokens[one.answer :]) == f" {word.upper()}"
        context = "".join(one.tokens[: one.own])
        assert context.count("Input: ") == 3 and context.endswith("Input: ")
    alone = explain_neuron(model, (1, 7), task, limit=1).examples[0]
    assert "".join(alone.tokens[alone.own :]) == "Input: ash\nOutput: ASH"


def test_results_do_not_depend_on_batches_or_company(model: Any, task: Task):
    together = explain_neurons(model, NEURONS, task, prompt=SHOTS, token_budget=1)
    alone = [explain_neuron(model, neuron, task, prompt=SHOTS) for neuron in NEURONS]
    for one, other in zip(together, alone, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-5)
        for mine, theirs in zip(one.promoted, other.promoted, strict=True):
            assert mine == (theirs[0], pytest.approx(theirs[1], abs=1e-5))
        assert [e.index for e in one.examples] == [e.index for e in other.examples]
        for mine, theirs in zip(one.examples, other.examples, strict=True):
            assert mine.tokens == theirs.tokens
            assert mine.activations == pytest.approx(theirs.activations, abs=1e-5)


def test_the_model_is_left_as_it_was(model: Any, task: Task):
    first = next(iter(model.parameters()))
    first.requires_grad_(False)
    try:
        with torch.inference_mode():
            explain_neuron(model, (0, 0), task)
        assert not first.requires_grad
        assert all(parameter.grad is None for parameter in model.parameters())
        assert sum(parameter.requires_grad for parameter in model.parameters()) > 1
    finally:
        first.requires_grad_(True)


def directions(model: Any, neuron: tuple[int, int]) -> torch.Tensor:
    """The logits of a residual stream that holds nothing but what the neuron writes, much of it."""
    layer, j = neuron
    row = 1e4 * view(model).layers[layer].parameters["W_out"].oriented[j]
    logits = []
    for signed in (row, -row):
        x = signed[None, None]
        if hasattr(model.blocks[layer], "ln2_post"):
            x = 1e4 * (model.blocks[layer].ln2_post(x))
        logits.append(model.unembed(model.ln_final(x))[0, 0])
    effect = (logits[0] - logits[1]) / 2  # biases cancel
    return (effect - effect.mean()).detach()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", helpers.ARCHITECTURES)
def test_effects_are_the_logits_of_what_the_neuron_writes(name: str, kind: str, tokenizer: Any):
    if kind == "hooked" and name not in helpers.HOOKED_ARCHITECTURES:
        return  # HookedTransformer can't hold these
    model = helpers.tiny_lens(name, kind, tokenizer=tokenizer)
    effects = output_effects(model, NEURONS)
    for effect, neuron in zip(effects, NEURONS, strict=True):
        expected = directions(model, neuron)
        cosine = torch.nn.functional.cosine_similarity(effect, expected, dim=0)
        assert cosine.item() == pytest.approx(1, abs=1e-5)
        # The norm's weight matters: without it the direction is another one.
        layer, j = neuron
        bare = view(model).layers[layer].parameters["W_out"].oriented[j] @ model.W_U.detach()
        bare = bare - bare.mean()
        assert torch.nn.functional.cosine_similarity(bare, expected, dim=0).item() < 0.9999


def test_tokens_are_the_extremes_of_the_effects(model: Any):
    effects = output_effects(model, NEURONS)[:, : len(model.tokenizer)]  # VOCAB is padded
    for row, found in zip(effects, token_effects(model, NEURONS, n_tokens=3), strict=True):
        ranked = row.argsort(descending=True).tolist()
        texts = token_texts(model.tokenizer, ranked)
        assert found.promoted == tuple(zip(texts[:3], row[ranked[:3]].tolist(), strict=True))
        lowest = ranked[::-1][:3]
        assert [text for text, _ in found.suppressed] == texts[::-1][:3]
        assert [value for _, value in found.suppressed] == row[lowest].tolist()
        assert found.promoted[0][1] > 0 > found.suppressed[0][1]


def test_a_sentencepiece_token_keeps_its_space():
    class Pieces:
        pieces = ("\u2581the", "re", "\u2581")

        def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
            return [self.pieces[i] for i in ids]

        def batch_decode(self, rows: Sequence[Sequence[int]], **_: Any) -> list[str]:
            return [self.pieces[i].replace("\u2581", "") for (i,) in rows]

    assert token_texts(Pieces(), [0, 1, 2]) == [" the", "re", " "]


class Checked(HTMLParser):
    """Collects text and tooltips; raises for tags that don't match."""

    VOID = frozenset({"br", "meta", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.titles, self.tags = "", [], set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.titles += [value for name, value in attrs if name == "title"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_table_text_and_html_show_the_numbers(model: Any, task: Task):
    told = explain_neuron(model, (1, 7), task, prompt=SHOTS, n_examples=3, n_tokens=4)
    frame = told.to_frame()
    assert list(frame) == ["example", "text", "answer", "activation", "at_token", "relevance"]
    for (_, row), shown in zip(frame.iterrows(), told.examples, strict=True):
        assert row["answer"] == task.train[shown.index].target
        assert row["activation"] == shown.activations[shown.peak]
        assert row["at_token"] == shown.tokens[shown.peak]
        assert row["relevance"] == pytest.approx(sum(shown.relevances))
    for by in ("activation", "relevance"):
        told = explain_neuron(model, (1, 7), task, prompt=SHOTS, by=by, n_examples=6)
        page = Checked()
        page.feed(told._repr_html_())
        assert not page.open
        assert "Neuron (1, 7)" in page.text and "birches\u21b5Output: BIRCHES" in page.text
        for shown in told.examples:
            values = shown.activations if by == "activation" else shown.relevances
            place = shown.own + 2
            wanted = f"{shown.tokens[place]!r}: {values[place]:+.4g}"
            assert any((title or "").startswith(wanted) for title in page.titles)
        assert repr(told).count("Output:") == len(told.examples)
        assert f"{told.score:.4g} nats" in repr(told)


def test_hostile_texts_stay_texts(model: Any):
    word = '</script><b onload="x">&amp;\n'
    examples = tuple(Example(f"{k}{word}", "yes") for k in range(2))
    task = Task(word.strip(), examples, (), metric="exact_match")
    page = Checked()
    page.feed(explain_neuron(model, (0, 1), task)._repr_html_())
    assert page.tags == {"div", "p", "b", "code", "small", "br", "span"}
    assert word.strip() in page.text and "0" + word.replace("\n", "\u21b5") in page.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"neurons": [(0, 1), (2, 0)]}, ["(2, 0)", "2 layers of 48"]),
        ({"neurons": [(0, -1)]}, ["(0, -1)"]),
        ({"neurons": []}, ["no neurons"]),
        ({"by": "size"}, ["'size'", "'activation'"]),
        ({"n_examples": 0}, ["n_examples is 0"]),
        ({"n_tokens": 0}, ["n_tokens is 0"]),
        ({"limit": 0}, ["limit is 0"]),
        ({"split": "dev"}, ["'dev'"]),
    ],
)
def test_bad_input_is_refused(model: Any, task: Task, change: dict[str, Any], words: list[str]):
    arguments = {"neurons": NEURONS, **change}
    with pytest.raises(ValueError) as caught:
        explain_neurons(model, arguments.pop("neurons"), task, **arguments)
    for word in words:
        assert word in str(caught.value)


def test_an_empty_task_and_a_model_without_tokenizer_are_refused(model: Any, task: Task):
    with pytest.raises(ValueError, match=r"train split of task 'none' is empty"):
        explain_neuron(model, (0, 0), Task("none", (), task.test, metric="exact_match"))
    bare = helpers.tiny_lens("llama")
    with pytest.raises(ValueError, match="no tokenizer"):
        explain_neuron(bare, (0, 0), task)
    with pytest.raises(ValueError, match="no tokenizer"):
        token_effects(bare, [(0, 0)])
