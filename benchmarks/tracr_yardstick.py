"""Do the methods find the neurons that compiled programs use? Needs TransformerLens 4 and Tracr.

    pip install tracr-pypi==1.0.0 jax==0.10.2
    python benchmarks/tracr_yardstick.py [--table figures/tracr.csv]

Programs are compiled for more tokens, and longer inputs, than they are given, so that some neurons
have nothing to do; ``tracr_truth`` says which, from the compiler's labels and the interpreter.
The scores are for the log-probability of the right outputs. One row for each program and method:
the area under the ROC curve of the score, over all neurons that are wired.
"""

import argparse
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tracr_truth import Wires, area_under_roc, needed

import tl_taskneurons as tn
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.scoring import score_batches
from tl_taskneurons.neurons.settings import ScoreSettings
from tl_taskneurons.tasks.batches import make_batches
from tl_taskneurons.tasks.prompts import Item
from tl_taskneurons.tasks.task import Example, Task

GIVEN, UNUSED, LENGTH, MOST = (1, 2, 3), (4,), 4, 6
N_INPUTS = 24


def programs() -> dict[str, Any]:
    """The programs, by name."""
    from tracr.compiler import lib
    from tracr.rasp import rasp

    successor = {1: 2, 2: 3, 3: 4, 4: 1}
    return {
        "hist": lib.make_hist(),
        "length": lib.make_length(),
        "reverse": lib.make_reverse(rasp.tokens),
        "sort": lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=MOST, min_key=1),
        "sort by frequency": lib.make_sort_freq(MOST),
        "less frequent than 2": lib.make_count_less_freq(2),
        "successor": rasp.Map(successor.get, rasp.tokens),
        "index plus token": rasp.SequenceMap(
            lambda index, token: index + token, rasp.indices, rasp.tokens
        ),
        "successor, reversed": lib.make_reverse(rasp.Map(successor.get, rasp.tokens)),
    }  # fmt: skip


class Compiled:
    """A program as a bridge, with its inputs, right outputs and truth."""

    def __init__(self, program: Any) -> None:
        from tracr.compiler import compiling, rasp_to_graph
        from transformer_lens.model_bridge import TransformerBridge
        from transformer_lens.utilities import tracr as conversion

        made = compiling.compile_rasp_to_model(
            program, vocab=set(GIVEN + UNUSED), max_seq_len=MOST, compiler_bos="BOS"
        )
        label = program.label
        config = conversion.make_tracr_transformer_bridge_config(made)
        self.model: Any = TransformerBridge.boot_native(config)
        weights = conversion.make_tracr_transformer_bridge_state_dict(made, label)
        self.model.load_state_dict(weights, strict=False)
        rng = random.Random(0)
        self.inputs = [[rng.choice(GIVEN) for _ in range(LENGTH)] for _ in range(N_INPUTS)]
        outputs = made.output_encoder.encoding_map
        self.targets = [[outputs[value] for value in program(one)] for one in self.inputs]
        tokens = [made.input_encoder.encode(["BOS", *one]) for one in self.inputs]
        # The token at a place is predicted one place before; so all places but the last count.
        self.items = [
            Item(i, tuple(map(int, ids[:2])), tuple(map(int, ids[2:])), ())
            for i, ids in enumerate(tokens)
        ]
        graph = rasp_to_graph.extract_rasp_graph(program).graph
        variables = {name: graph.nodes[name]["EXPR"] for name in graph}
        self.truth = [
            needed(wires, variables, self.inputs) for wires in _wires(made, config.n_layers)
        ]

    def log_prob(self, logits: torch.Tensor, item: Item) -> torch.Tensor:
        """The log-probability of the right outputs, summed over places."""
        targets = torch.tensor(self.targets[item.index][:-1])
        return logits.log_softmax(1).gather(1, targets[:, None]).sum()


def _wires(made: Any, n_layers: int) -> list[list[Wires]]:
    """What the neurons of each layer read and write."""
    labels, layers = made.residual_labels, []
    for layer in range(n_layers):
        parts = [
            np.array(made.params[f"transformer/layer_{layer}/mlp/linear_{k}"]["w"]) for k in (1, 2)
        ]
        layers.append(
            [Wires(*(tuple(labels[i] for i in np.nonzero(row)[0]) for row in pair))
             for pair in zip(parts[0].T, parts[1], strict=True)]
        )  # fmt: skip
    return layers


def scored(found: Compiled) -> dict[str, Callable[[], torch.Tensor]]:
    """Every method's scores of all neurons."""
    everything = tn.NeuronSet.from_pairs(
        found.model, [(i, j) for i, row in enumerate(found.truth) for j in range(len(row))]
    )
    blank = Task("program", (Example("a", "b"),), (), metric="exact_match")
    runs: dict[str, Callable[[], torch.Tensor]] = {}
    for name in tn.METHODS.names(data=True, neurons=False):
        if tn.METHODS.find(name).whole:  # programs have no classes
            continue
        asked = {"metric": found.log_prob} if tn.METHODS.find(name).asks else {}
        runs[name] = lambda name=name, asked=asked: tn.score_items(
            found.model, found.items, name, **asked
        )
    for name in tn.METHODS.names(data=False):
        runs[name] = lambda name=name: tn.score_neurons(found.model, blank, name).values
    runs["exact"] = lambda: score_batches(
        view(found.model), list(make_batches(found.items)), "exact", neurons=everything,
        settings=ScoreSettings(metric=found.log_prob),
    )  # fmt: skip
    return runs


def measured(name: str, program: Any) -> pd.DataFrame:
    """One row for each method; NaN where it has no rules for such models."""
    found = Compiled(program)
    flat = [each for row in found.truth for each in row]
    rows = []
    for method, run in scored(found).items():
        try:
            values = run().flatten().tolist()
        except ValueError as error:
            if "has no rules" not in str(error):
                raise
            continue
        kept = [(v, true) for v, true in zip(values, flat, strict=True) if true is not None]
        rows.append(
            {"program": name, "method": method, "needed": sum(true for _, true in kept),
             "neurons": len(kept), "auroc": area_under_roc(*zip(*kept, strict=True))}
        )  # fmt: skip
    return pd.DataFrame(rows)


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Measure every program; print the areas."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path)
    given = parser.parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = pd.concat([measured(*pair) for pair in programs().items()], ignore_index=True)
    if given.table:
        table.round(4).to_csv(given.table, index=False)
    wide = table.pivot_table(index=["program", "needed", "neurons"], columns="method", sort=False)
    print(wide["auroc"].round(2).to_string())
    return table


if __name__ == "__main__":
    main()
