"""The public names and where they live."""

from .method import Method as Method
from .method import find_method as find_method
from .methods import METHODS as METHODS
from .orders import ORDERS as ORDERS
from .orders import order as order
from .sequence import SequenceResult as SequenceResult
from .sequence import run_sequence as run_sequence
