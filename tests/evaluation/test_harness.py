"""lm-eval on our models: its requests against plain PyTorch, its numbers against ours."""

import json
from pathlib import Path
from typing import Any

import helpers
import micro
import pandas as pd
import pytest
import torch
from lm_eval.api.instance import Instance

import tl_taskneurons as tn
from tl_taskneurons.evaluation.harness_model import HarnessModel
from tl_taskneurons.models.inputs import CutInputWarning
from tl_taskneurons.neurons.sets import NeuronSet

KINDS = ("bridge", "hooked") if helpers.HAS_HOOKED else ("bridge",)
PAIRS = [("abc", " d"), ("a", "b c d"), ("", "xyz"), ("a longer one ", "x"), ("abc", " e")]


def requests(kind: Any, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


def log_probs(hf: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return hf(torch.tensor([ids])).logits[0].log_softmax(-1)


@pytest.mark.parametrize(("name", "kind"), [("gpt2", "bridge"), *(("llama", k) for k in KINDS)])
def test_requests_are_answered_as_plain_pytorch_does(name: str, kind: str, tokenizer):
    hf = helpers.tiny_hf(name)
    model = HarnessModel(micro.lens(name, kind, tokenizer), token_budget=16)
    found = model.loglikelihood(requests("loglikelihood", *PAIRS))
    for (context, continuation), (value, greedy) in zip(PAIRS, found, strict=True):
        before = [256, *context.rstrip().encode()] if context else [256]
        after = [*(context + continuation).encode()][len(before) - 1 :]
        rows = log_probs(hf, before + after)[len(before) - 1 : -1]
        wanted = rows[range(len(after)), after].sum().item()
        assert value == pytest.approx(wanted, abs=1e-4)
        assert greedy == (rows.argmax(-1).tolist() == after)
    text = "some text of many bytes"
    (rolling,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    ids = [256, *text.encode()]
    rows = log_probs(hf, ids)[:-1]
    assert rolling == pytest.approx(rows[range(len(text)), ids[1:]].sum().item(), abs=1e-4)


def test_long_texts_are_read_in_windows(tokenizer, monkeypatch):
    model = HarnessModel(micro.lens("llama", "bridge", tokenizer))
    monkeypatch.setattr(HarnessModel, "max_length", 8)
    text = "abcdefghijklmnopqrst"
    (value,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    hf, ids, wanted = helpers.tiny_hf("llama"), [*text.encode()], 0.0
    # Seven tokens after BOS, then seven after one of the context, and the last six after two.
    for start, window in ((1, [256, *ids[:7]]), (1, ids[6:14]), (2, ids[12:20])):
        rows = log_probs(hf, window)
        wanted += sum(rows[i - 1, window[i]].item() for i in range(start, len(window)))
    assert value == pytest.approx(wanted, abs=1e-4)
    with pytest.warns(CutInputWarning, match="Of 2 requests, 1 lost the beginnings.* 8 tokens"):
        ((cut, _), _) = model.loglikelihood(
            requests("loglikelihood", ("abcdefghijk", "xy"), ("ab", "x"))
        )
    rows = log_probs(hf, [*b"fghijkxy"])
    assert cut == pytest.approx((rows[5, ord("x")] + rows[6, ord("y")]).item(), abs=1e-4)
    with pytest.raises(ValueError, match="9 tokens leaves no room in the context of 8"):
        model.loglikelihood(requests("loglikelihood", ("a", "123456789")))


def test_answers_are_generated_up_to_a_stop(kind: str, tokenizer):
    model = HarnessModel(micro.lens("llama", kind, tokenizer))
    hf = helpers.tiny_hf("llama")
    prompts, most = ["ab", "xyz 12345"], 6
    texts = []
    for prompt in prompts:
        ids = [256, *prompt.encode()]
        for _ in range(most):
            ids.append(int(log_probs(hf, ids)[-1].argmax()))
        texts.append(tokenizer.decode(ids[1 + len(prompt) :], skip_special_tokens=True))
    options = {"until": [], "max_gen_toks": most}
    asked = requests("generate_until", *((prompt, options) for prompt in prompts))
    assert model.generate_until(asked) == texts
    stop = texts[0][2]
    stopped = {"until": stop, "max_gen_toks": most, "do_sample": False}
    (found,) = model.generate_until(requests("generate_until", (prompts[0], stopped)))
    assert found == texts[0].partition(stop)[0]
    with pytest.raises(ValueError, match="asks for sampling"):
        model.generate_until(requests("generate_until", ("a", {"do_sample": True})))


@pytest.fixture(scope="module")
def film() -> Any:
    return tn.load_model("mini-llama"), tn.load_tasks("mini", "mini_film")[0].limit(32, 24)


@pytest.fixture
def configured(film, tmp_path: Path) -> Path:
    """The items of our task as a task of the harness, worded in the same way."""
    task = film[1]
    rows = [
        {"input": one.input, "label": task.labels.index(one.target)} for one in task.test
    ]  # fmt: skip
    data = tmp_path / "items.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "film.yaml").write_text(
        "task: own_film\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {json.dumps(str(data))}}}}}\n"
        "test_split: test\n"
        "output_type: multiple_choice\n"
        f"doc_to_text: {json.dumps(task.instruction + chr(10) + 'Input: {{input}}' + chr(10))}\n"
        f"doc_to_choice: {json.dumps(list(task.labels))}\n"
        "doc_to_target: label\n"
        'target_delimiter: ""\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    return tmp_path


def test_its_accuracy_is_ours(film, configured: Path, monkeypatch: pytest.MonkeyPatch):
    model, task = film
    monkeypatch.setenv("HF_DATASETS_CACHE", str(configured / "cache"))
    prompt = tn.Prompt(template="Input: {input}\n{answer}")
    neurons = tn.score_neurons(model, task, prompt=prompt, limit=16).top(fraction=0.05)
    delta = tn.finetune(model, task, neurons, tn.Training(lr=1e-2, steps=1), prompt=prompt)
    before = micro.snapshot(model)
    state = torch.random.get_rng_state()
    found = tn.lm_eval(model, "own_film", neurons=neurons, delta=delta, include_path=configured)
    assert micro.unchanged(model, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found["condition"].tolist() == ["as it is", "silenced mini_film", "trained mini_film"]
    assert set(found["n"]) == {len(task.test)} and set(found["metric"]) == {"acc"}
    ours = [tn.evaluate(model, task, prompt=prompt)]
    with tn.deactivate(model, neurons):
        ours.append(tn.evaluate(model, task, prompt=prompt))
    with delta.applied(model):
        ours.append(tn.evaluate(model, task, prompt=prompt))
    assert found["value"].tolist() == pytest.approx(pd.concat(ours)["value"].tolist())
    assert found["value"].nunique() > 1 and (found["stderr"] > 0).any()


def test_sets_by_name_and_a_limit(film, configured: Path, monkeypatch):
    model, _ = film
    monkeypatch.setenv("HF_DATASETS_CACHE", str(configured / "cache"))
    sets = {"a": NeuronSet.from_pairs(model, [(0, 1)]), "b": NeuronSet.from_pairs(model, [(1, 1)])}
    found = tn.lm_eval(
        model, ["own_film"], neurons=sets, limit=3, num_fewshot=0, include_path=configured
    )
    assert found["condition"].tolist() == ["as it is", "silenced a", "silenced b"]
    assert set(found["n"]) == {3}


def test_what_can_not_be_run_is_told(film, configured: Path, tokenizer):
    model, _ = film
    with pytest.raises(ValueError, match="no task 'own_fil'; did you mean 'own_film'"):
        tn.lm_eval(model, "own_fil", include_path=configured)
    with pytest.raises(ValueError, match="There are no tasks"):
        tn.lm_eval(model, [])
    other = NeuronSet(torch.ones(2, 3, dtype=torch.bool), "2x3-a-b", "other")
    with pytest.raises(ValueError, match="belongs to model"):
        tn.lm_eval(model, "own_film", neurons=other, include_path=configured)
    with pytest.raises(ValueError, match="limit is 0"):
        tn.lm_eval(model, "own_film", limit=0)
    (configured / "items.json").unlink()
    with pytest.raises(ConnectionError, match="The data of own_film can't be read"):
        tn.lm_eval(model, "own_film", include_path=configured)
    bare = helpers.tiny_lens("llama")
    with pytest.raises(ValueError, match="no tokenizer"):
        HarnessModel(bare)


def test_the_extra_is_named_where_it_is_missing(film, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(ImportError, match=r"tl-taskneurons\[evals\]"):
        tn.lm_eval(film[0], "own_film")
