"""The tests of the paper's claims C1 to C11: fixed here, before the runs that are published.

Each takes tables and returns a ``Verdict``. A claim holds when all its comparisons are above 0
after Holm's correction at 5%, fails otherwise, and is not tested where a table is missing or too
small for any outcome to pass. How the comparisons are made is in ``statistics``. No torch.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from tl_taskneurons.evaluation.statistics import Estimate
from tl_taskneurons.experiments.claims.items import c1, c2, c4, c6
from tl_taskneurons.experiments.claims.matrices import c3
from tl_taskneurons.experiments.claims.similarity import c7, c8
from tl_taskneurons.experiments.claims.units import c5, c9, c10
from tl_taskneurons.experiments.claims.verdicts import (
    NAN,
    Comparison,
    Verdict,
    comparisons_frame,
    frame,
    from_json,
    judge,
    not_tested,
    to_json,
)

__all__ = [
    "Verdict", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9", "c10", "c11", "claims",
    "comparisons_frame", "frame", "from_json", "to_json",
]  # fmt: skip


def claims(tables: Mapping[str, pd.DataFrame | None]) -> list[Verdict]:
    """Test C1 to C10 on the tables of a reproduction.

    Args:
        tables: by the names of the functions' arguments: ``deactivation, trained, plain, together,
            alone, overlap, controlled, similarity, transfer, rows, stages``; C8 takes
            ``similarity_overall`` (not by layer) where there is one. A table may be missing.

    Returns:
        One verdict per claim.

    Raises:
        ValueError: for a table that can't be compared as it is.
    """
    get = tables.get
    overall = get("similarity_overall")
    return [
        c1(get("deactivation")),
        c2(get("trained")),
        c3(get("deactivation"), get("trained"), get("plain")),
        c4(get("together"), get("alone")),
        c5(get("overlap")),
        c6(get("controlled")),
        c7(get("similarity")),
        c8(get("similarity") if overall is None else overall, get("transfer")),
        c9(get("rows")),
        c10(get("stages")),
    ]


def c11(*verdicts: Sequence[Verdict]) -> Verdict:
    """Test C11: whether every claim that is tested in all architectures holds in all of them.

    No test of its own but a count of verdicts: effects are shares of the architectures, without
    interval and p (NaN).

    Args:
        *verdicts: those of each architecture.
    """
    if len(verdicts) < 2:
        return not_tested("C11", f"needs two architectures; there are {len(verdicts)}")
    by_claim = [{each.claim: each.verdict for each in found} for found in verdicts]
    listed = [each.claim for each in verdicts[0] if each.claim != "C11"]
    found = {claim: [one.get(claim, "not tested") for one in by_claim] for claim in listed}
    tested = {claim: each for claim, each in found.items() if "not tested" not in each}
    if not tested:
        return not_tested("C11", "no claim is tested in all architectures")
    comparisons = []
    for claim, each in tested.items():
        share = each.count("holds") / len(each)
        comparisons.append(
            Comparison("C11", "", claim, share, NAN, NAN, NAN, NAN, share == 1,
                       "share of architectures")
        )  # fmt: skip
    differ = [f"{claim} {' / '.join(each)}" for claim, each in tested.items() if len(set(each)) > 1]
    note = f"{len(tested)} of {len(found)} claims are tested in all {len(verdicts)} architectures"
    note += f"; verdicts differ: {', '.join(differ)}" if differ else "; verdicts agree"
    mean = float(np.mean([comparison.effect for comparison in comparisons]))
    return judge("C11", comparisons, Estimate(mean, NAN, NAN, NAN), note)
