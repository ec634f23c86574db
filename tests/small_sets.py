"""Sets and scores of a model with three layers of eight neurons, made by hand."""

import torch
from hypothesis import settings
from hypothesis import strategies as st

from tl_taskneurons import NeuronScores, NeuronSet

N_LAYERS, D_MLP = 3, 8
PRINT = "3x8-00000000000000aa"


def neuron_set(bits: int, name: str = "s") -> NeuronSet:
    flat = [(bits >> i) & 1 == 1 for i in range(N_LAYERS * D_MLP)]
    return NeuronSet(torch.tensor(flat).reshape(N_LAYERS, D_MLP), PRINT, name)


def scores_of(values: list[list[float]], name: str = "t", method: str = "grad_act") -> NeuronScores:
    return NeuronScores(torch.tensor(values), PRINT, name, method)


quick = settings(max_examples=40, deadline=None)
# Few different values, so that ties are common.
scores = st.lists(
    st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=N_LAYERS * D_MLP, max_size=N_LAYERS * D_MLP
).map(lambda flat: NeuronScores(torch.tensor(flat).reshape(N_LAYERS, D_MLP), PRINT, "t", "m"))
