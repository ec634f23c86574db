import micro
import pytest

import tl_taskneurons as tn
from tests import helpers
from tl_taskneurons.models.inputs import Data


def test_answers_stand_side_by_side(tokenizer):
    model, task = micro.lens("llama", "bridge", tokenizer), micro.words()
    scores = tn.score_neurons(model, task)
    sets = {"most": scores.top(n=40)}
    table = tn.compare_generations(
        model, task, sets, data=Data(split="test", limit=4), max_new_tokens=5
    )
    assert list(table.columns) == ["input", "target", "undisturbed", "most"]
    assert table["input"].tolist() == [example.input for example in task.test[:4]]
    plain = tn.evaluate_items(model, task, limit=4, generation=True, max_new_tokens=5)
    assert table["undisturbed"].tolist() == plain["prediction"].tolist()
    with tn.deactivate(model, sets["most"]):
        silenced = tn.evaluate_items(model, task, limit=4, generation=True, max_new_tokens=5)
    assert table["most"].tolist() == silenced["prediction"].tolist()
    assert (table["undisturbed"] != table["most"]).any()
    assert "words" in tn.compare_generations(model, task, sets["most"], max_new_tokens=2).columns
    with pytest.raises(ValueError, match="A set is called 'target'"):
        tn.compare_generations(model, task, {"target": sets["most"]})


def test_a_model_in_training_answers_without_dropout(tokenizer):
    model = helpers.tiny_lens("gpt2", tokenizer=tokenizer, resid_pdrop=0.5, embd_pdrop=0.5)
    same = {"none": tn.NeuronSet.from_pairs(model, [(0, 0)])}
    calm = tn.compare_generations(model, micro.words(), same, max_new_tokens=5)
    model.train()
    assert tn.compare_generations(model, micro.words(), same, max_new_tokens=5).equals(calm)
    assert model.training
