"""Sets and scores of a model with three layers of eight neurons, made by hand."""

import torch

from tl_taskneurons import NeuronScores, NeuronSet

N_LAYERS, D_MLP = 3, 8
PRINT = "3x8-00000000000000aa"


def neuron_set(bits: int, name: str = "s") -> NeuronSet:
    flat = [(bits >> i) & 1 == 1 for i in range(N_LAYERS * D_MLP)]
    return NeuronSet(torch.tensor(flat).reshape(N_LAYERS, D_MLP), PRINT, name)


def scores_of(values: list[list[float]], name: str = "t", method: str = "grad_act") -> NeuronScores:
    return NeuronScores(torch.tensor(values), PRINT, name, method)
