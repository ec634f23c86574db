"""The tests of the paper's claims C1 to C11: fixed here, before the runs that are published.

``columns`` states the tables, ``decide`` how a verdict is reached; each claim is a function from
tables to verdicts, of which one or two are for the first page (``headline``). No torch.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from tl_taskneurons.evaluation.statistics import NAN, Estimate
from tl_taskneurons.experiments.claims.columns import TABLES, EvidenceTable
from tl_taskneurons.experiments.claims.decide import STATEMENTS, Pooled, judge, not_testable
from tl_taskneurons.experiments.claims.evidence import Evidence, NotTestable, summary_of_gates
from tl_taskneurons.experiments.claims.items import c1, c2, c4, c6
from tl_taskneurons.experiments.claims.matrices import c3
from tl_taskneurons.experiments.claims.similarity import c7, c8
from tl_taskneurons.experiments.claims.units import c5, c9, c10
from tl_taskneurons.experiments.claims.verdicts import (
    Question,
    Verdict,
    comparisons_frame,
    frame,
    from_json,
    headline,
    to_json,
)
from tl_taskneurons.runtime.registry import Choice, Registry

__all__ = [
    "CLAIMS", "STATEMENTS", "TABLES", "EvidenceTable", "Verdict", "c11", "claims",
    "comparisons_frame", "frame", "from_json", "headline", "summary_of_gates", "to_json",
]  # fmt: skip

CLAIMS: Registry[Choice[Callable[[Evidence], list[Verdict]]]] = Registry("claim", Choice)
for _test in (c1, c2, c3, c4, c5, c6, c7, c8, c9, c10):
    _name = _test.__name__.upper()
    CLAIMS.add(Choice(_name, STATEMENTS[_name], _test))


def claims(
    tables: Mapping[str, pd.DataFrame | None], only: Sequence[str] | None = None
) -> list[Verdict]:
    """Test claims on the tables of a reproduction.

    Args:
        tables: by the names of ``TABLES``; any may be missing.
        only: names of claims; None is C1 to C10.

    Returns:
        One verdict or more for each claim.

    Raises:
        InputError: for a table that can't be compared as it is, or an unknown claim.
    """
    evidence = Evidence(tables)
    found: list[Verdict] = []
    for name in CLAIMS if only is None else only:
        try:
            found += CLAIMS.find(name).function(evidence)
        except NotTestable as why:
            found.append(not_testable(Question(name, "", "", NAN), str(why)))
    return found


def c11(*verdicts: Sequence[Verdict]) -> Verdict:
    """Test C11: whether what is supported in one architecture is so in all.

    No test of its own but a count of the verdicts on the first page: of the claims that are
    testable in all architectures and supported in one or more, how many are so in all. Effects are
    shares of the architectures, without interval (NaN); p is 0 where all agree, else 1.

    Args:
        *verdicts: those of each architecture.
    """
    question = Question("C11", "", "share of architectures", NAN)
    if len(verdicts) < 2:
        return not_testable(question, f"needs two architectures; there are {len(verdicts)}")
    by_claim = [_by_claim(found) for found in verdicts]
    listed = [claim for claim in by_claim[0] if all(claim in each for each in by_claim)]
    tested = {
        claim: [each[claim] for each in by_claim]
        for claim in listed
        if all(each[claim].verdict != "not testable" for each in by_claim)
    }
    if not tested:
        return not_testable(question, "no claim is testable in all architectures")
    shares = {claim: float(np.mean([e.supported for e in each])) for claim, each in tested.items()}
    shares = {claim: share for claim, share in shares.items() if share}
    if not shares:
        return not_testable(question, "no claim that is testable in all is supported in any")
    differ = [
        f"{claim} ({' / '.join(each.verdict for each in tested[claim])})"
        for claim, share in shares.items()
        if share < 1
    ]
    note = f"{len(tested)} claims are testable in all {len(verdicts)} architectures; " + (
        f"they differ in {', '.join(differ)}" if differ else "they agree"
    )
    estimates = {
        claim: Estimate(share, NAN, NAN, 0.0 if share == 1 else 1.0)
        for claim, share in shares.items()
    }
    mean = Estimate(float(np.mean(list(shares.values()))), NAN, NAN, 1.0)
    return judge(question, estimates, Pooled(mean, NAN), note)


def _by_claim(found: Sequence[Verdict]) -> dict[str, Verdict]:
    """The verdicts on the first page, by claim and what is asked (``"C2 speed"``)."""
    return {
        f"{each.claim} {each.part.partition(':')[0]}".strip(): each
        for each in headline(found)
        if each.claim != "C11"
    }
