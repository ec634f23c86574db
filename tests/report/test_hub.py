"""To the hub and back, by Hugging Face's own client and a hub on this machine."""

import json
import socket
from pathlib import Path
from typing import Any

import helpers
import huggingface_hub
import micro
import pandas as pd
import pytest
import torch
from local_hub import local_hub
from small_sets import neuron_set, scores_of

import tl_taskneurons as tn
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.report.card import Facts, card


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Let the client use an address, an empty cache, and a login of its own."""

    def point(address: str) -> None:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "local")

    return point


def test_sets_scores_and_deltas_come_back(reachable, tokenizer):
    model = micro.lens("llama", "bridge", tokenizer)
    task = micro.words()
    scores = tn.score_neurons(model, task, limit=2)
    neurons = scores.top(5)
    delta = tn.finetune(model, task, neurons, tn.Training(lr=1e-2, steps=1))
    items = {"set": neurons, "scores": scores, "delta": delta}
    results = pd.DataFrame({"task": ["a|b"], "value": [0.123456]})
    with local_hub() as (address, repos):
        reachable(address)
        told = tn.push_to_hub(items, "me/words", base_model="tiny/llama", results=results)
        assert told.endswith("/me/words")
        assert {*repos["me/words"]} == {
            "README.md", "delta.safetensors", "scores.safetensors", "set.safetensors", "set.json",
        }  # fmt: skip
        assert tn.from_hub("me/words", "set") == neurons
        back: Any = tn.from_hub("me/words", "scores")
        assert torch.equal(back.values, scores.values) and back.method == "grad_act"
        loaded: Any = tn.from_hub("me/words", "delta")
        assert isinstance(loaded, tn.NeuronDelta)
        for name, value in delta.trained.items():
            assert torch.equal(loaded.trained[name], value)
        with pytest.raises(ValueError, match=r"3 items; say which: name= one of \['delta'"):
            tn.from_hub("me/words")
        with pytest.raises(ValueError, match="no set, scores or delta of ours called 'other'"):
            tn.from_hub("me/words", "other")
    listed = json.loads(repos["me/words"]["set.json"])["neurons"]
    assert listed == {str(i): j.tolist() for i, j in neurons.layers().items()}
    # What was loaded is in the cache, also when the hub is gone.
    assert tn.from_hub("me/words", "set") == neurons


def test_the_card_says_what_is_there_and_runs(reachable, tokenizer, monkeypatch):
    model = micro.lens("llama", "bridge", tokenizer)
    neurons = tn.score_neurons(model, micro.words(), limit=2).top(5)
    results = pd.DataFrame({"task": ["a|b"], "value": [0.123456]})
    with local_hub() as (address, repos):
        reachable(address)
        tn.push_to_hub(neurons, "me/words", base_model="tiny/llama", results=results, licence="mit")
        text = repos["me/words"]["README.md"].decode()
        data: Any = huggingface_hub.ModelCard(text).data
        assert tuple(data[key] for key in ("library_name", "base_model", "license")) == (
            "tl-taskneurons", "tiny/llama", "mit",
        )  # fmt: skip
        for part in (
            "| words.safetensors | 5 of 96 neurons (5.21%) | words |", "| a\\|b | 0.1235 |",
            neurons.fingerprint, "- method: grad_act", "- unit: ", "## Licence\n\n`mit`",
        ):  # fmt: skip
            assert part in text, part
        code = text.split("```python\n")[1].split("```")[0]
        monkeypatch.setattr(tn, "load_model", lambda name: {"tiny/llama": model}[name])
        exec(code, {"tasks": helpers.toy_task(4)})


def test_a_card_without_facts_claims_none(reachable):
    with local_hub() as (address, repos):
        reachable(address)
        tn.push_to_hub(neuron_set(7, ""), "me/bare")
        text = repos["me/bare"]["README.md"].decode()
    assert "license:" not in text and "The authors have named none" in text
    assert "None were given." in text and "nothing is noted" in text
    assert "NeuronSet.safetensors" in repos["me/bare"]


def test_names_of_strangers_are_text_in_a_card():
    bad = 'x"); print("run") #```\n<script>![a](b)'
    neurons = NeuronSet(
        neuron_set(7).mask, neuron_set(7).fingerprint, "n", {"model": bad, "a": bad}
    )
    text = card("me/x", {"n.safetensors": neurons}, Facts())
    code = text.split("```python\n")[1].split("```")[0]
    (load,) = [line for line in code.splitlines() if "load_model" in line]
    seen: list[str] = []
    exec(load.replace("tn.load_model", "seen.append"), {"seen": seen})
    assert seen == [bad]
    (listed,) = [line for line in text.splitlines() if line.startswith("- a: ")]
    assert listed == r'- a: x"); print("run") #\`\`\` &lt;script>\!\[a\](b)'
    assert text.count("```") == 2 and "\n<script>" not in text


def test_what_is_there_is_replaced_only_when_asked(reachable):
    with local_hub() as (address, repos):
        reachable(address)
        repos["me/full"] = {"README.md": b"mine", "notes.txt": b"mine"}
        with pytest.raises(ValueError, match=r"has README.md, notes.txt already; .* overwrite"):
            tn.push_to_hub(neuron_set(7), "me/full")
        assert repos["me/full"]["README.md"] == b"mine"
        tn.push_to_hub(neuron_set(7), "me/full", overwrite=True)
        assert repos["me/full"]["README.md"] != b"mine"
        assert repos["me/full"]["notes.txt"] == b"mine"


def test_a_hub_out_of_reach_is_told(reachable):
    with socket.socket() as free:  # nothing listens on it afterwards
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    reachable(address)
    with pytest.raises(ConnectionError, match=f"me/s was not written: .*{address}"):
        tn.push_to_hub(neuron_set(7), "me/s")
    with pytest.raises(ConnectionError, match="me/s is not in the Hugging Face cache, and"):
        tn.from_hub("me/s")


def test_offline_is_told():
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        tn.push_to_hub(neuron_set(7), "me/s")


def test_refusals_of_the_hub_are_told(reachable):
    with local_hub(refuses=403) as (address, repos):
        reachable(address)
        with pytest.raises(PermissionError, match="log in with hf auth login"):
            tn.push_to_hub(neuron_set(7), "me/s")
        with pytest.raises(ValueError, match="The hub shows you no me/none; check the name"):
            tn.from_hub("me/none")
        repos["me/other"] = {"README.md": b"text"}
        with pytest.raises(ValueError, match="me/other has no set, scores or delta of ours"):
            tn.from_hub("me/other")
        with pytest.raises(ValueError, match="give USER/NAME"):
            tn.push_to_hub(neuron_set(7), "a/b/c")


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([neuron_set(7, "a"), neuron_set(3, "a")], "named ['a', 'a']; "),
        ([neuron_set(7, "")], "has no name; give a dict"),
        ({}, "named []"),
        ([neuron_set(7, "a"), tn.NeuronSet(torch.ones(2, 2) > 0, "2x2-a-b", "b")], "different"),
        ({"a": scores_of([[1.0]]), "b": 3}, "'3' (int) can't be pushed"),
    ],
)
def test_what_can_not_be_pushed_is_told(items: Any, told: str):
    with pytest.raises((ValueError, TypeError)) as caught:
        tn.push_to_hub(items, "me/s")
    assert told in str(caught.value)
