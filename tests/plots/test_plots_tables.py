"""What every figure has in common: bad tables are refused, and files are the same every time."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from plotting import DRAWN, clipped, heading, member_table, share_table, similarity_table

from tl_taskneurons import plots

ALL = pytest.mark.parametrize("name", DRAWN)


@ALL
def test_everything_lies_within_the_figure(name: str):
    draw, table, _, _ = DRAWN[name]
    figure = draw(table())
    assert clipped(figure) == []
    assert heading(figure)


@ALL
def test_an_empty_table_is_refused(name: str):
    draw, table, _, _ = DRAWN[name]
    with pytest.raises(ValueError, match="0 rows"):
        draw(table().iloc[:0])


@ALL
def test_a_missing_column_is_named_with_those_there_are(name: str):
    draw, table, keys, value = DRAWN[name]
    for column in (*keys, value):
        with pytest.raises(ValueError, match=rf"lacks the columns \['{column}'\]; it has \['"):
            draw(table().drop(columns=column))


@ALL
def test_two_rows_for_one_cell_are_refused(name: str):
    draw, table, keys, _ = DRAWN[name]
    twice = pd.concat([table(), table().iloc[[1]]])
    first = table().iloc[1][keys[0]]
    shown = repr(first.item() if isinstance(first, np.generic) else first)
    with pytest.raises(ValueError, match=rf"two rows for .*{keys[0]} {shown}"):
        draw(twice)


@ALL
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_refused(name: str, bad: float):
    draw, table, _, value = DRAWN[name]
    frame = table().astype({value: float})
    frame.loc[2, value] = bad
    with pytest.raises(ValueError, match=f"{value}.* is {bad}|loss_change"):
        draw(frame)


@ALL
def test_words_in_the_place_of_numbers_are_refused(name: str):
    draw, table, _, value = DRAWN[name]
    frame = table()
    frame[value] = "much"
    with pytest.raises(ValueError, match=f"'{value}' holds 'much', not numbers"):
        draw(frame)


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match=r"kinds \['near'\] are unknown; use \['in-domain'"):
        plots.share_curves(share_table().replace({"kind": {"in-domain": "near"}}))
    draw, table, _, _ = DRAWN["scatter"]
    with pytest.raises(ValueError, match=r"samples \['best'\] are unknown; use"):
        draw(table().replace({"sample": {"top": "best"}}))
    with pytest.raises(ValueError, match=r"is -1; effects here are at least 0"):
        draw(table().assign(score=-1.0))
    with pytest.raises(ValueError, match="'layer' holds 'all', not numbers"):
        plots.similarity_by_layer(similarity_table().query("layer == 0").assign(layer="all"))
    with pytest.raises(ValueError, match="Every similarity is NaN"):
        plots.similarity_by_layer(similarity_table().assign(similarity=np.nan))


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
@pytest.mark.parametrize("name", ["share", "training"])
def test_the_same_table_gives_the_same_bytes(name: str, suffix: str, tmp_path: Path):
    draw, table, _, _ = DRAWN[name]
    figure = draw(table())
    files = [tmp_path / f"{k}{suffix}" for k in range(3)]
    plots.save(figure, files[0])
    plots.save(figure, files[1])
    plots.save(draw(table()), files[2])
    first, again, anew = (file.read_bytes() for file in files)
    assert first == again == anew
    assert first.startswith(b"\x89PNG" if suffix == ".png" else b"%PDF")
    assert b"CreationDate" not in first
    assert mpl.rcParams["pdf.fonttype"] == mpl.rcParamsDefault["pdf.fonttype"]


def test_text_in_a_pdf_stays_text(tmp_path: Path):
    plots.save(plots.share_curves(share_table()), tmp_path / "f.pdf")
    assert b"/CIDFontType2" in (tmp_path / "f.pdf").read_bytes()  # TrueType, not outlines


def test_another_suffix_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"f.jpg ends in '.jpg'; .* \['.png', '.pdf'\]"):
        plots.save(plots.share_curves(share_table()), tmp_path / "f.jpg")
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_sets_that_cannot_be_drawn_is_refused():
    members = member_table()
    with pytest.raises(ValueError, match="0 rows"):
        plots.upset_plot(members.iloc[:0])
    with pytest.raises(ValueError, match=r"lacks the columns \['neuron'\]"):
        plots.upset_plot(members.drop(columns="neuron"))
    with pytest.raises(ValueError, match="two rows for task 'task_0' and layer 0 and neuron 0"):
        plots.upset_plot(pd.concat([members, members.iloc[:1]]))
    with pytest.raises(ValueError, match="one task"):
        plots.upset_plot(members[members["task"] == "task_0"])
    with pytest.raises(ValueError, match="largest is 0"):
        plots.upset_plot(members, largest=0)


def test_scores_are_drawn_as_shares_of_their_sum():
    class Some:
        name = "sst2"

        def to_frame(self) -> pd.DataFrame:
            return pd.DataFrame({"layer": [1, 0, 1], "neuron": [0, 0, 1], "score": [2.0, 1.0, 1.0]})

    (image,) = plots.score_heatmap(Some()).axes[0].images
    assert np.asarray(image.get_array()).tolist() == [[25.0, 75.0]]
    (image,) = plots.score_heatmap({"a": Some(), "b": Some()}).axes[0].images
    assert np.asarray(image.get_array()).tolist() == [[25.0, 75.0]] * 2
