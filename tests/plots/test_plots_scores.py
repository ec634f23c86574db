from typing import Any

import micro
import numpy as np
import pandas as pd
import pytest

import tl_taskneurons as tn
from tl_taskneurons.plots.score_map import score_map


def frame(values: np.ndarray) -> pd.DataFrame:
    layers, neurons = np.indices(values.shape)
    return pd.DataFrame(
        {"layer": layers.ravel(), "neuron": neurons.ravel(), "score": values.ravel()}
    )


def test_every_score_has_its_place_and_neighbours_share_one_by_the_largest():
    values = np.zeros((3, 1024))
    values[1, 0], values[2, 1023], values[0, 7] = 2.0, -4.0, 1e-9
    figure = score_map(frame(values).sample(frac=1, random_state=0))
    shown = figure.axes[0].images[0].get_array()
    assert shown is not None and shown.shape == (3, 512)
    assert shown[1, 0] == 2.0 and shown[2, 511] == 4.0  # sizes
    assert shown[0, 3] == pytest.approx(4e-4)  # the scale begins there
    assert figure.axes[0].images[0].get_extent() == [-0.5, 1023.5, 2.5, -0.5]


def test_a_part_of_the_layers_keeps_their_numbers():
    values = np.arange(1.0, 25.0).reshape(4, 6)
    table = frame(values)
    image = score_map(table[(table["layer"] >= 2) & (table["neuron"] >= 1)]).axes[0].images[0]
    assert image.get_extent() == [0.5, 5.5, 3.5, 1.5]
    assert np.asarray(image.get_array()).tolist() == values[2:, 1:].tolist()
    apart = table[table["layer"].isin([0, 3]) & table["neuron"].isin([0, 4])]
    axes = score_map(apart).axes[0]
    drawn: Any = axes.images[0].get_array()
    assert np.ma.filled(drawn, -1).tolist() == [
        [1, -1, -1, -1, 5],
        [-1] * 5,
        [-1] * 5,
        [19, -1, -1, -1, 23],
    ]
    assert all(place == round(place) for place in axes.get_yticks())
    with pytest.raises(ValueError, match="'layer' holds 'all', not numbers"):
        score_map(table.assign(layer="all").head(6))


def test_scores_draw_themselves(tokenizer):
    model = micro.lens("llama", "bridge", tokenizer)
    scores = tn.score_neurons(model, micro.words(), signed=True)
    figure = scores.plot()
    shown = figure.axes[0].images[0].get_array()
    assert shown is not None and np.allclose(shown, scores.values.abs().numpy(), atol=1e-4 * 50)
    assert "words" in figure.get_suptitle()
    assert scores.plot(ax=figure.axes[0]) is figure
    with pytest.raises(ValueError, match="lacks the columns"):
        score_map(pd.DataFrame({"layer": [0]}))
