"""NumPy's numbers are taken as options, and become Python's own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tl_taskneurons.runtime.options import plain, require_seed, settled

ROOT = Path(__file__).parents[2]
# In a process of its own: there are no type checks by the tests' import hook there.
USES = """
import sys
from pathlib import Path
import numpy as np
import helpers, tl_taskneurons as tn

folder, task = Path(sys.argv[1]), helpers.toy_task()
file = folder / "file"
model = helpers.tiny_lens("llama", tokenizer=helpers.tiny_tokenizer(folder / "tokenizer"))
prompt = tn.Prompt(shots=np.int64(1))

scores = tn.score_neurons(model, task, layers=list(np.arange(2)), limit=np.int64(4), prompt=prompt)
scores.save(file)
assert tn.NeuronScores.load(file).info == scores.info
some = scores.top(n=np.int64(10))
some.save(file)
assert tn.NeuronSet.load(file).info["n"] == 10
for chosen in tn.select([scores], fraction=np.float32(0.25)).values():
    chosen.save(file)
    assert tn.NeuronSet.load(file).info["fraction"] == 0.25
drawn = some.random_like(np.int64(1))
drawn.save(file)
assert drawn == some.random_like(1) and tn.NeuronSet.load(file).info["seed"] == 1
random = tn.score_neurons(model, task, "random", seed=np.int64(3))
assert random.values.equal(tn.score_neurons(model, task, "random", seed=3).values)

training = tn.Training(lr=np.float32(1e-2), steps=np.int64(2), betas=(np.float32(0.5), 0.9))
assert type(training.lr) is type(training.betas[0]) is float and type(training.steps) is int
delta = tn.finetune(model, task, some, training, prompt=prompt, checkpoint=folder / "point")
lora = tn.finetune_lora(model, task, some, training, prompt=prompt)
for each in (delta, lora, delta * np.float32(0.5)):
    each.save(file)
    found = tn.load_delta(file)
    assert found.info["training"]["steps"] == 2 and found.info["prompt"]["shots"] == 1

results = [
    tn.run_sequence(
        model, [task], "ncft", tn.Training(lr=real(0.01), steps=number(1)), fraction=real(0.25),
        score_limit=number(4), seed=number(1), folder=folder / "run", prompt=tn.Prompt(number(1)),
    ).scores
    for number, real in ((np.int64, np.float64), (int, float))
]
assert results[0].equals(results[1]) and len(list(folder.glob("run/pieces/toy-*"))) == 1
"""


@dataclass(frozen=True)
class Settings:
    layers: list[int] | None = None
    rate: float = 1.0
    flag: bool = False


def test_numbers_become_plain_and_nothing_else_changes():
    given = {"layers": list(np.arange(2)), "rate": np.float32(0.5), "flag": True}
    assert repr(settled("f", Settings, given)) == "Settings(layers=[0, 1], rate=0.5, flag=True)"
    nested = {"a": (np.int8(1), "x", None), "b": [{"c": np.float64(2.5)}], "d": True}
    assert repr(plain(nested)) == "{'a': (1, 'x', None), 'b': [{'c': 2.5}], 'd': True}"
    assert repr(require_seed(np.uint32(3))) == "3"


@pytest.mark.needs("once")
def test_what_is_made_with_numpys_numbers_is_saved_as_with_pythons(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", USES, str(tmp_path)], cwd=ROOT, text=True, capture_output=True,
        timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
