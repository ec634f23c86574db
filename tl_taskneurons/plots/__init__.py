"""Tables in, matplotlib figures out: pure functions, one look, no window and no torch.

Every function takes a tidy DataFrame and returns a ``Figure``; ``save`` writes it as PNG or PDF.
In matrices of changes red means that a task is hurt. Colours tell apart for colour-blind readers
and in grey print; every cell of a matrix carries its number, every line its marker.
"""

from tl_taskneurons.plots.ablation_curves import ablation_curves
from tl_taskneurons.plots.bars import deactivation_bars
from tl_taskneurons.plots.curves import (
    controlled_overlap_curves,
    forgetting_curves,
    overlap_curves,
    share_curves,
)
from tl_taskneurons.plots.gaps import gap_curves
from tl_taskneurons.plots.layers import (
    neurons_by_layer,
    score_heatmap,
    sibling_curves,
    similarity_by_layer,
)
from tl_taskneurons.plots.look import describe, save
from tl_taskneurons.plots.matrices import deactivation_heatmap, overlap_heatmap, training_heatmap
from tl_taskneurons.plots.overview import demo_figure, found_figure
from tl_taskneurons.plots.recovery import recovery_curves
from tl_taskneurons.plots.scatter import faithfulness_scatter, faithfulness_sets
from tl_taskneurons.plots.score_map import score_map
from tl_taskneurons.plots.search_curve import search_curve
from tl_taskneurons.plots.sets import upset_plot

__all__ = [
    "ablation_curves",
    "controlled_overlap_curves",
    "deactivation_bars",
    "deactivation_heatmap",
    "demo_figure",
    "describe",
    "faithfulness_scatter",
    "faithfulness_sets",
    "forgetting_curves",
    "found_figure",
    "gap_curves",
    "neurons_by_layer",
    "overlap_curves",
    "overlap_heatmap",
    "recovery_curves",
    "save",
    "score_heatmap",
    "score_map",
    "search_curve",
    "share_curves",
    "sibling_curves",
    "similarity_by_layer",
    "training_heatmap",
    "upset_plot",
]
