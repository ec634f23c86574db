"""In which order tasks come: the paper's six sequences, and those of the miniature.

The names are those of ``load_tasks`` for a folder in the format of the README and for ``"hub"``
alike (the miniature's for ``"mini"``).
"""

from tl_taskneurons.runtime.errors import InputError, did_you_mean

# Leng & Xiong 2025, section 4: sequences of four tasks, and of eight.
ORDERS: dict[str, tuple[str, ...]] = {
    "order1": ("dbpedia", "amazon", "yahoo", "agnews"),
    "order2": ("dbpedia", "amazon", "agnews", "yahoo"),
    "order3": ("yahoo", "amazon", "agnews", "dbpedia"),
    "order4": ("mnli", "qqp", "rte", "amazon", "sst2", "dbpedia", "agnews", "yahoo"),
    "order5": ("amazon", "agnews", "yahoo", "qqp", "rte", "mnli", "dbpedia", "sst2"),
    "order6": ("agnews", "yahoo", "sst2", "rte", "qqp", "mnli", "dbpedia", "amazon"),
    # The same three sequences in miniature: 14 classes, 5 grades, 10 forums, 4 topics.
    "mini1": ("mini_things14", "mini_stars5", "mini_forum10", "mini_press4"),
    "mini2": ("mini_things14", "mini_stars5", "mini_press4", "mini_forum10"),
    "mini3": ("mini_forum10", "mini_stars5", "mini_press4", "mini_things14"),
}


def order(name: str) -> tuple[str, ...]:
    """Return the names of an order's tasks.

    Args:
        name: one of ``ORDERS``, or task names with commas between.

    Raises:
        ValueError: for an unknown order, with the nearest names.
    """
    if name in ORDERS:
        return ORDERS[name]
    if "," in name:
        return tuple(part.strip() for part in name.split(",") if part.strip())
    raise InputError(
        f"Unknown order {name!r}{did_you_mean(name, tuple(ORDERS))} Or give task names with "
        "commas between."
    )
