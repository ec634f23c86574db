import copy

import helpers
import pandas as pd
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

import tl_taskneurons as tn
from tl_taskneurons.models.forward import answer_losses, frozen
from tl_taskneurons.tasks.batches import make_batches
from tl_taskneurons.tasks.prompts import encode
from tl_taskneurons.tasks.task import Example, Task

LABELS = ("Good", "Gold", "Bads")
FEELINGS = Task(
    "feel",
    tuple(Example(word, LABELS[i % 3]) for i, word in enumerate(["ab", "cd", "efg", "h", "ij"])),
    tuple(
        Example(word, LABELS[i % 3]) for i, word in enumerate(["x", "yz", "uvw", "tt", "s", "r"])
    ),
    "Feel.",
    LABELS,
)
PAIRS = Task(
    "pair",
    tuple(Example(a, a.upper()) for a in ("ab", "cd", "ef")),
    tuple(Example(a, a.upper()) for a in ("gh", "i", "jklm")),
    metric="exact_match",
)
STORY = Task(
    "story",
    (Example("a", "b c"),),
    tuple(Example(a, "one two three", references=("one two", "four")) for a in ("p", "qq")),
    metric="rougeL",
)


@pytest.fixture(scope="module", params=["llama", "bloom"])
def model(request, tokenizer):
    return helpers.tiny_lens(request.param, tokenizer=tokenizer)


def label_log_probs(model, task: Task) -> list[dict[str, float]]:
    """Sum of token log-probabilities of every label, one plain forward pass each.

    Where a label begins another, all have the newline that ends them.
    """
    result = []
    begins = any(a != b and b.startswith(a) for a in task.labels for b in task.labels)
    end = "\n" if begins else ""
    for item in encode(task, model.tokenizer).items:
        row = {}
        for label in task.labels:
            ids = [
                *item.prompt,
                *model.tokenizer(f" {label}{end}", add_special_tokens=False).input_ids,
            ]
            with torch.no_grad():
                log_probs = model(torch.tensor([ids]))[0].log_softmax(-1)
            n = len(item.prompt)
            row[label] = sum(float(log_probs[p - 1, ids[p]]) for p in range(n, len(ids)))
        result.append(row)
    return result


def test_accuracy_ranks_labels_by_their_summed_log_probability(model):
    expected = label_log_probs(model, FEELINGS)
    items = tn.evaluate_items(model, FEELINGS)
    assert items["prediction"].tolist() == [max(row, key=lambda k: row[k]) for row in expected]
    truth = [example.target for example in FEELINGS.test]
    assert items["score"].tolist() == [
        float(said == own) for said, own in zip(items["prediction"], truth, strict=True)
    ]


@pytest.mark.parametrize("labels", [LABELS, ("A", "B", "C", "At")], ids=["long", "one token"])
def test_the_lazy_ranking_is_exact_over_many_models(labels, tokenizer):
    examples = tuple(Example(example.input, labels[0]) for example in FEELINGS.test)
    task = Task("t", examples, examples, labels=labels)
    chosen = set()
    for seed in range(6):
        model = helpers.tiny_lens("gpt2", seed=seed, tokenizer=tokenizer)
        expected = [max(row, key=lambda k, r=row: r[k]) for row in label_log_probs(model, task)]
        assert tn.evaluate_items(model, task)["prediction"].tolist() == expected
        chosen |= set(expected)
    assert len(chosen) > 1


def test_loss_is_the_mean_cross_entropy_of_the_answer_in_nats(model):
    expected = label_log_probs(model, FEELINGS)
    losses = tn.evaluate_items(model, FEELINGS)["loss"]
    for example, row, loss in zip(FEELINGS.test, expected, losses, strict=True):
        n = len(model.tokenizer(f" {example.target}", add_special_tokens=False).input_ids)
        assert loss == pytest.approx(-row[example.target] / n, rel=1e-4)


def taught(tokenizer, task: Task, answers: list[str]):
    """A tiny model trained until it answers the test inputs of a task with ``answers``."""
    hf = helpers.tiny_hf("llama")
    rows = []
    for example, answer in zip(task.test, answers, strict=True):
        text = f"Input: {example.input}\nOutput: {answer}\n"
        rows.append([tokenizer.bos_token_id, *tokenizer(text).input_ids])
    optimizer = torch.optim.Adam(hf.parameters(), lr=3e-3)
    width = max(map(len, rows))
    ids = torch.tensor([row + [258] * (width - len(row)) for row in rows])
    labels = ids.masked_fill(ids == 258, -100)
    for _ in range(150):
        loss = hf(input_ids=ids, attention_mask=(ids != 258).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tn.load_model(hf.eval(), tokenizer=tokenizer, device="cpu")


def test_exact_match_by_one_pass_equals_generation(tokenizer):
    # Right, right but going on, wrong.
    model = taught(tokenizer, PAIRS, ["GH", "I and more", "JKXX"])
    by_pass = tn.evaluate_items(model, PAIRS)
    by_text = tn.evaluate_items(model, PAIRS, generation=True, max_new_tokens=12)
    assert by_text["prediction"].tolist() == ["GH", "I and more", "JKXX"]
    assert by_pass["score"].tolist() == by_text["score"].tolist() == [1.0, 0.0, 0.0]
    torch.testing.assert_close(
        torch.tensor(by_pass["loss"].tolist()), torch.tensor(by_text["loss"].tolist())
    )


def test_any_reference_counts_and_the_loss_is_the_targets(tokenizer):
    model = taught(tokenizer, PAIRS, ["GH", "I", "other"])
    third = Example("jklm", "JKLM", references=("JKLM", "other"))
    task = Task("pair", PAIRS.train, (*PAIRS.test[:2], third), metric="exact_match")
    items = tn.evaluate_items(model, task)
    assert items["score"].tolist() == [1.0, 1.0, 1.0]
    plain = tn.evaluate_items(model, PAIRS)
    assert items["loss"].tolist() == pytest.approx(plain["loss"].tolist(), rel=1e-5)
    assert plain["score"].tolist() == [1.0, 1.0, 0.0]


def test_accuracy_by_generation_compares_the_text(tokenizer):
    task = Task("two", PAIRS.train, (Example("a", "Yes"), Example("b", "No")), metric="exact_match")
    model = taught(tokenizer, task, ["Yes", "Yes"])
    labelled = Task("two", task.test, task.test, "", ("Yes", "No"))
    items = tn.evaluate_items(model, labelled, generation=True, max_new_tokens=6)
    assert items["score"].tolist() == [1.0, 0.0]


def test_rouge_is_the_best_over_references(tokenizer):
    model = taught(tokenizer, STORY, ["one two four", "five"])
    items = tn.evaluate_items(model, STORY, max_new_tokens=20)
    assert items["prediction"].tolist() == ["one two four", "five"]
    scorer = RougeScorer(["rougeL"])
    best = max(scorer.score(ref, "one two four")["rougeL"].fmeasure for ref in ("one two", "four"))
    assert items["score"].tolist() == pytest.approx([best, 0.0])


@pytest.mark.parametrize("task", [FEELINGS, PAIRS], ids=lambda task: task.name)
def test_a_shared_prefix_changes_nothing(model, task):
    prompt = tn.Prompt(shots=2)
    plain = tn.evaluate_items(model, task, prompt=prompt)
    shared = tn.evaluate_items(model, task, prompt=prompt, share_prefix=True)
    assert shared["loss"].tolist() == pytest.approx(plain["loss"].tolist(), rel=1e-4)
    assert shared["prediction"].tolist() == plain["prediction"].tolist()
    neurons = tn.NeuronSet(torch.rand(tn.view(model).shape) < 0.3, tn.view(model).fingerprint)
    with tn.deactivate(model, neurons):
        silenced = tn.evaluate_items(model, task, prompt=prompt)
        both = tn.evaluate_items(model, task, prompt=prompt, share_prefix=True)
    assert both["loss"].tolist() == pytest.approx(silenced["loss"].tolist(), rel=1e-4)
    assert silenced["loss"].tolist() != pytest.approx(plain["loss"].tolist(), rel=1e-2)


def test_batching_changes_nothing(model):
    one = tn.evaluate_items(model, FEELINGS, token_budget=1)
    many = tn.evaluate_items(model, FEELINGS)
    assert one["loss"].tolist() == pytest.approx(many["loss"].tolist(), rel=1e-5)


@pytest.mark.needs("hooked")
def test_both_classes_agree(tokenizer):
    frames = {
        kind: tn.evaluate(model, [FEELINGS, PAIRS, STORY], max_new_tokens=8)
        for kind, model in helpers.both_classes(helpers.tiny_hf("llama"), tokenizer).items()
    }
    pd.testing.assert_frame_equal(frames["bridge"], frames["hooked"], rtol=1e-4)


def test_evaluate_gives_one_row_per_task_with_intervals(model):
    table = tn.evaluate(model, [FEELINGS, PAIRS])
    assert table["task"].tolist() == ["feel", "pair"]
    assert table["n"].tolist() == [6, 3]
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    pd.testing.assert_frame_equal(table, tn.evaluate(model, [FEELINGS, PAIRS]))


def test_a_task_judged_by_loss_has_no_score(model):
    items = tn.evaluate_items(model, Task.from_texts("prose", ["Hello there.", "Bye."]))
    assert items["score"].isna().all()
    assert (items["loss"] > 0).all()


def test_losses_that_are_not_finite_name_the_example(tokenizer):
    hf = helpers.tiny_hf("llama")
    with torch.no_grad():
        dict(hf.named_parameters())["model.embed_tokens.weight"][ord("z")] = float("nan")
    model = tn.load_model(hf, tokenizer=tokenizer, device="cpu")
    task = Task("nan", PAIRS.train, (Example("a", "b"), Example("z", "b")), metric="exact_match")
    with pytest.raises(ValueError, match="loss of example 1 is nan"):
        tn.evaluate(model, task)
    assert not model.unembed._forward_pre_hooks


def make_sets(model) -> dict[str, tn.NeuronSet]:
    return {
        task.name: tn.score_neurons(model, task).top(fraction=0.1) for task in (FEELINGS, PAIRS)
    }


def test_deactivation_items_cover_every_condition(model):
    sets = make_sets(model)
    items = tn.deactivation_items(model, [FEELINGS, PAIRS], sets, controls=3)
    seen = items[["kind", "silenced", "seed", "task"]].drop_duplicates()
    assert seen["kind"].value_counts().to_dict() == {"none": 2, "task": 4, "random": 6}
    controls = seen[seen["kind"] == "random"]
    assert (controls["silenced"] == controls["task"]).all()
    assert (items.groupby("kind")["n_neurons"].nunique() >= 1).all()
    with tn.deactivate(model, sets["feel"]):
        by_hand = tn.evaluate_items(model, PAIRS)
    stored = items[(items["kind"] == "task") & (items["silenced"] == "feel")]
    stored = stored[stored["task"] == "pair"]
    assert stored["loss"].tolist() == by_hand["loss"].tolist()
    table = tn.deactivation_table(items)
    assert table["n_controls"].tolist() == [3, 3]
    matrix = tn.deactivation_matrix(items)
    assert len(matrix) == 4


def test_mean_ablation_needs_means_and_differs_from_zero(model):
    sets = make_sets(model)
    condition = tn.conditions(sets, controls=0)[1]
    with pytest.raises(ValueError, match="'mean' with means="):
        tn.evaluate_condition(model, [FEELINGS], condition, ablation="mean")
    means = tn.activation_mean(model, FEELINGS)
    mean = tn.evaluate_condition(model, [FEELINGS], condition, ablation="mean", means=means)
    zero = tn.evaluate_condition(model, [FEELINGS], condition)
    assert mean["loss"].tolist() != pytest.approx(zero["loss"].tolist(), rel=1e-3)


def test_an_empty_set_is_refused(model):
    empty = tn.NeuronSet(torch.zeros(tn.view(model).shape, dtype=torch.bool), "x")
    with pytest.raises(ValueError, match="neuron set of 'feel' is empty"):
        tn.conditions({"feel": empty})


def test_frozen_restores_flags_and_modes_after_an_exception(tokenizer):
    model = helpers.tiny_lens("gpt2", tokenizer=tokenizer)
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    model.train()
    before = [p.requires_grad for p in parameters], [m.training for m in model.modules()]
    with pytest.raises(KeyboardInterrupt), frozen(model):
        assert not any(p.requires_grad for p in parameters)
        assert not any(m.training for m in model.modules())
        raise KeyboardInterrupt
    assert before == ([p.requires_grad for p in parameters], [m.training for m in model.modules()])


def test_logits_are_made_at_answers_only_and_equal_the_full_ones(model):
    items = encode(FEELINGS, model.tokenizer).items
    (batch,) = make_batches(items)
    sizes = []
    handle = model.unembed.register_forward_hook(lambda m, i, out: sizes.append(out.shape[1]))
    try:
        with torch.no_grad():
            losses = answer_losses(tn.view(model), batch)
    finally:
        handle.remove()
    assert sizes == [int(batch.answer_mask.sum())]
    with torch.no_grad():
        full = model(batch.tokens, attention_mask=batch.attention_mask.long()).log_softmax(-1)
    for row, loss in enumerate(losses.tolist()):
        at = batch.answer_mask[row].nonzero().flatten()
        expected = -full[row, at - 1, batch.tokens[row, at]].mean()
        assert loss == pytest.approx(float(expected), rel=1e-5)


def test_evaluation_leaves_the_weights_alone(model):
    before = copy.deepcopy({k: v.clone() for k, v in model.state_dict().items()})
    tn.deactivation_items(model, [FEELINGS], {"feel": make_sets(model)["feel"]}, controls=1)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_set_under_a_name_that_no_task_has_is_refused(model):
    sets = {"feal": make_sets(model)["feel"]}
    with pytest.raises(ValueError, match=r"'feal' of a set; did you mean 'feel'"):
        tn.deactivation_items(model, [FEELINGS], sets, controls=1)
