"""What `reproduce` prints of the verdicts."""

from pathlib import Path

import numpy as np
import pytest
from claim_tables import ask, deactivation

from tl_taskneurons.cli import main
from tl_taskneurons.experiments import reproduce
from tl_taskneurons.experiments.claims import claims


def test_claims_that_were_not_asked_are_named_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    rng = np.random.default_rng(0)
    found = [*ask("C1", deactivation=deactivation(rng)), *claims({}, ["C2", "C5"])]
    assert [verdict.asked for verdict in found] == [True, True, False, False]
    monkeypatch.setattr(reproduce, "reproduce", lambda job, **given: found)  # noqa: ARG005
    folder = str(tmp_path / "out")
    assert main(["reproduce", "--only", "table1", "--out", folder]) == 0
    out = capsys.readouterr().out
    assert "supported for all" in out and "no table" not in out
    assert "Not asked by --only or --questions: C2, C5.\n" in out


def test_a_claim_that_cannot_be_told_was_asked_all_the_same():
    rng = np.random.default_rng(0)
    (found,) = [v for v in ask("C1", 0.0, deactivation=deactivation(rng)) if v.primary]
    assert found.verdict == "not testable" and found.asked
