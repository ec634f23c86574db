"""Pages as a browser shows them after their script ran."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from report_pages import HOSTILE, Page

from tl_taskneurons.report.page import write_report


def dom(file: Path, state: str, folder: Path) -> str:
    """The page as chromium has it after its script ran."""
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
         "--virtual-time-budget=2000", "--dump-dom", f"{file.as_uri()}#{state}"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout


@pytest.mark.needs("chromium")
def test_a_browser_shows_the_chosen_neuron_and_sorts(report: Any, tmp_path: Path):
    data = Page(report()).json()
    layer = 1
    wanted = [e for e in data["sets"]["exclusive"][HOSTILE]["neurons"] if e["layer"] == layer]
    chosen = wanted[-1]
    state = (
        "task=%3C%2Fscript%3E%3Cb+onload%3D%22x%22%3E%26amp%3B&selection=exclusive"
        f"&layer={layer}&neuron={layer}.{chosen['neuron']}&tint=relevance"
        "&sort=deactivation_matrix:loss_change:desc"
    )
    text = dom(tmp_path / "page.html", state, tmp_path / "profile")
    assert re.search(r'<html[^>]* data-ready="\d+"', text)  # the script ran to its end
    read = Page(text)
    listed = [row[1][0] for row in read.tables["neurons-view"][1:]]
    assert listed == [str(entry["neuron"]) for entry in wanted]
    assert f"Layer {layer}, neuron {chosen['neuron']}" in read.text and HOSTILE in read.text
    assert text.count('aria-selected="true"') == 1
    assert "Layer 0 at the top" in read.text
    for one in chosen["examples"]:
        tokens = data["texts"][HOSTILE][str(one["text"])]["tokens"]
        assert "".join(tokens).replace("\n", "\u21b5") in read.text
        strongest = max(one["relevances"], key=abs)
        assert f"{'+' if strongest >= 0 else ''}{strongest:.3g}".replace("-", "\u2212")[:5] in text
    assert "rgba(var(--below), 0." in text and "rgba(var(--above), 0." in text
    heads, *rows = read.tables["deactivation_matrix"]
    column = [heading for heading, _ in heads].index("loss_change")
    values = [float(str(row[column][1]).split(" [")[0]) for row in rows]
    assert len(values) == 8 and values == sorted(values, reverse=True)
    assert "<b onload" not in text


@pytest.mark.needs("chromium")
def test_a_browser_shows_a_page_without_neurons(tmp_path: Path):
    (tmp_path / "table.csv").write_text("task,score\nb,2\na,10\nc,\n")
    file = write_report(tmp_path)
    text = dom(file, "sort=table:score:asc", tmp_path / "profile")
    assert re.search(r'<html[^>]* data-ready="\d+"', text)
    assert [row[0][0] for row in Page(text).tables["table"][1:]] == ["b", "a", "c"]
