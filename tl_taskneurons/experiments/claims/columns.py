"""The tables that the claims are tested on: what each holds, column by column. No torch.

An experiment hands over its tables by these names (``evidence``); ``TABLES[name].read(frame)``
checks one. A table or column that is missing makes the claims that need it not testable, with the
name of what is missing. Scores are shares of 1 and losses nats per token of the answer, both on
test items; every table is long, one row for each combination of its ``keys``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tl_taskneurons.runtime.errors import InputError

_ITEM = {
    "task": "the task that is tested",
    "item": "number of the test item, the same in every condition",
    "score": "the item's score, NaN for a task without a metric",
    "loss": "mean cross-entropy of its answer, nats per token",
}
_SET = {
    "match": "'total' or 'layer': how random neurons match the task's, the paper's plain controls "
    "or as many in each layer; '' for the task's own",
    "fraction": "share of all neurons that are silenced or trained",
}


@dataclass(frozen=True)
class EvidenceTable:
    """What one table holds.

    Attributes:
        name: what ``claims`` calls it.
        says: what is in it.
        columns: what each column that must be there says.
        keys: the columns that tell rows apart.
        defaults: columns that may be left out where the whole table has this value.
    """

    name: str
    says: str
    columns: Mapping[str, str]
    keys: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def missing(self, frame: pd.DataFrame) -> list[str]:
        """The columns that a table lacks."""
        return [name for name in self.columns if name not in {*frame.columns, *self.defaults}]

    def read(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the table with its defaults filled in.

        Raises:
            InputError: for columns that are missing, and for several rows of one key.
        """
        missing = self.missing(frame)
        if missing:
            raise InputError(
                f"The table {self.name!r} lacks the columns {missing}; it has "
                f"{list(map(str, frame.columns))}."
            )
        added = {name: value for name, value in self.defaults.items() if name not in frame}
        found = frame.assign(**added)
        twice = found.duplicated(list(self.keys))
        if twice.any():
            where = found.loc[twice, list(self.keys)].iloc[0].to_dict()
            raise InputError(f"The table {self.name!r} has several rows for {where}; keep one.")
        return found


TABLES: dict[str, EvidenceTable] = {
    table.name: table
    for table in (
        EvidenceTable(
            "gates",
            "whether there is anything to conclude from: the model that a table is about, before "
            "and after, by item, means over seeds. In 'deactivation' the model that is silenced, "
            "in 'trained' the mean over all sets of neurons after the most updates, in 'together', "
            "'alone', 'controlled' and 'transfer' all neurons trained, on siblings too: something "
            "transfers",
            {
                "table": "the table that this is the gate of",
                "zero_shot_score": "the untrained model's score of the item",
                "zero_shot_loss": "its loss",
                "floor": "the task's score by guessing: the larger of 1 / labels and the share of "
                "the commonest label; 0 for generated answers",
                **_ITEM,
            },
            ("table", "task", "item"),
        ),
        EvidenceTable(
            "deactivation",
            "C1, C3: each task's neurons silenced, random ones, and the plain model. Task's own on "
            "all tasks, random ones on the task that they stand for; controls are drawn anew for "
            "each task, sample and seed, five or more of each kind",
            {
                "silenced": "whose neurons, '' for the plain model",
                "kind": "'none', 'task' or 'random'",
                "seed": "the control's draw; -1 where there is none",
                "selection": "how neurons were selected, 'plain' or 'contrastive'",
                "sample": "number of the sample of examples that neurons were detected on",
                **_SET,
                **_ITEM,
            },
            ("selection", "fraction", "sample", "silenced", "kind", "match", "seed", "task",
             "item"),
            {"selection": "plain", "fraction": 0.1, "sample": 0, "match": "layer"},
        ),
        EvidenceTable(
            "trained",
            "C2, C3: the same after training the task's or random neurons",
            {
                "trained": "the task that was trained",
                "neurons": "'task' or 'random'",
                "seed": "of the draw of neurons, the order of examples and the start",
                "question": "'speed': the plan's low rate after its few updates, the same for all "
                "sets; 'end point': all updates at the set's own best rate, chosen for kind, match "
                "and fraction on held-out loss; other rows (the map) are not tested",
                "lr": "learning rate",
                "updates": "number of updates",
                **_SET,
                **_ITEM,
            },
            ("question", "fraction", "lr", "updates", "trained", "neurons", "match", "seed", "task",
             "item"),
            {"fraction": 0.1, "match": "layer", "question": "end point", "lr": 0.0, "updates": 0},
        ),
        EvidenceTable(
            "plain", "C3: the model before it was trained", _ITEM, ("task", "item")
        ),
        EvidenceTable(
            "together",
            "C4: several tasks trained together in a growing share of their neurons",
            {
                "train_group": "'CLS' or 'GEN': the tasks that were trained",
                "kind": "'in-domain' for these tasks, 'out-of-domain' for siblings",
                "test_group": "the tested task's group",
                "fraction": "share of the neurons, up to 1",
                "seed": "of training",
                **_ITEM,
            },
            ("train_group", "fraction", "seed", "task", "item"),
        ),
        EvidenceTable(
            "alone",
            "C4: one task trained alone in a growing share",
            {"trained": "that task", "fraction": "share of the neurons", "seed": "of training",
             **_ITEM},
            ("trained", "fraction", "seed", "task", "item"),
        ),
        EvidenceTable(
            "overlap",
            "C5: overlap of the union of one group's neurons with that of another's",
            {
                "detection_seed": "of the sample of examples that neurons were detected on",
                "fraction": "share of the neurons",
                "train_group": "'CLS' or 'GEN'",
                "test_group": "'CLS' or 'GEN'",
                "iou": "shared neurons / neurons in either",
            },
            ("detection_seed", "fraction", "train_group", "test_group"),
        ),
        EvidenceTable(
            "controlled",
            "C6: training as many neurons with more or less overlap with the tested tasks'. The "
            "rows of the trained tasks are there too: where their loss falls as much, overlap made "
            "training better, not transfer",
            {
                "group": "the pair or group that is trained and tested",
                "fraction": "share of the neurons that are trained",
                "overlap": "part of these that are the tested tasks'",
                "kind": "'out-of-domain' for the siblings, 'in-domain' for the trained tasks",
                "seed": "of the draw and of training",
                **_ITEM,
            },
            ("group", "fraction", "overlap", "seed", "task", "item"),
            {"kind": "out-of-domain"},
        ),
        EvidenceTable(
            "similarity",
            "C7: similarity of two tasks' neurons' parameters in a model trained on the first, by "
            "layer; one reading and one part",
            {
                "model": "the task that the model was trained on",
                "seed": "of training",
                "layer": "from 0",
                "task_x": "the first task",
                "task_y": "the second",
                "siblings": "whether they are of one family",
                "similarity": "their cosine",
                "chance": "the mean of random sets with as many neurons in the layer",
            },
            ("model", "seed", "layer", "task_x", "task_y"),
            {"seed": 0, "chance": 0.0},
        ),
        EvidenceTable(
            "similarity_overall",
            "C8: the same over all layers; means over seeds are taken",
            {"model": "the task that the model was trained on", "task_y": "the tested task",
             "similarity": "cosine"},
            ("model", "task_y", "seed"),
            {"seed": 0},
        ),
        EvidenceTable(
            "transfer",
            "C8: how well each model does each tested task, means over seeds",
            {"model": "the task that it was trained on", "task": "the tested task",
             "value": "minus the loss, nats per token",
             "type": "'CLS' or 'GEN', of the trained task"},
            ("model", "task"),
        ),
        EvidenceTable(
            "rows",
            "C9: tasks trained one after another, at the end",
            {
                "method": "of continual learning",
                "order": "of the tasks",
                "seed": "of examples, starts and, where tasks are drawn, of the tasks",
                "cl": "mean score of all tasks after the last stage",
                "alone": "mean score of the tasks, each trained alone by this method",
            },
            ("method", "order", "seed"),
        ),
        EvidenceTable(
            "stages",
            "C10: the same after each stage",
            {
                "method": "of continual learning",
                "order": "of the tasks",
                "seed": "as in 'rows'",
                "stage": "from 1",
                "fg": "mean over earlier tasks of (score - chance) / (score alone - chance); NaN "
                "at the first stage, and where a task alone is not above chance",
                "alone": "as in 'rows'",
            },
            ("method", "order", "seed", "stage"),
        ),
    )
}  # fmt: skip
