"""Learning tasks in a row: the paper's NCFT and W-NCFT (section 4), their rivals, and more."""

from tl_taskneurons.continual.methods import METHODS, Method, find_method
from tl_taskneurons.continual.orders import ORDERS, order
from tl_taskneurons.continual.sequence import SequenceResult, run_sequence

__all__ = [
    "METHODS",
    "ORDERS",
    "Method",
    "SequenceResult",
    "find_method",
    "order",
    "run_sequence",
]
