"""From a run folder to its page."""

import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from tl_taskneurons.analysis.explain import explain_neurons
from tl_taskneurons.analysis.explanation import NeuronExplanation
from tl_taskneurons.loading.models import load_model, model_revision
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import require_same_model, view
from tl_taskneurons.neurons.methods import METHODS
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.report.folder import Contents, attempt, is_own, read_folder
from tl_taskneurons.report.fragments import (
    answers_of,
    facts_of,
    figures_of,
    is_answers,
    json_script,
    table_of,
    templates,
)  # fmt: skip
from tl_taskneurons.report.view import Pair, all_neurons, choose, reliability_of, view_data
from tl_taskneurons.runtime.atomic import write_atomically
from tl_taskneurons.runtime.errors import InputError, TaskNeuronsError
from tl_taskneurons.runtime.run_folder import file_name
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Tasks, tasks_digest

_MOST_EXAMPLES = 64  # what the neurons are watched on; about as long as detection on as many
_NO_TEXTS = "Texts and tokens are left out"


def write_report(
    run_dir: str | os.PathLike[str],
    *,
    model: LanguageModel | None = None,
    out: str | os.PathLike[str] | None = None,
    neurons: int = 50,
    texts: bool = True,
    device: str | None = None,
    progress: bool | None = None,
) -> Path:
    """Write one HTML file that shows a run; it needs no network and nothing beside it.

    Facts, tables, figures, and, where the run selected neurons, a view to look through them by
    task and layer, with the texts that excite them and the tokens they write. An unfinished or
    damaged run gives a page of what is there, which says what is not.

    Args:
        run_dir: a run folder.
        model: the run's model; by default the one that ``run.json`` names is loaded.
        out: the file; ``report.html`` in the run folder by default.
        neurons: how many neurons to list for each task and selection; the best of each layer
            come first.
        texts: whether to show what the neurons do, which needs the model.
        device: where the model is loaded to; by default the first GPU, else the CPU.
        progress: show progress bars; by default after two seconds (see ``Progress``).

    Returns:
        The file.

    Raises:
        FileNotFoundError: for a folder that is missing, or holds nothing to show.
        ValueError: for a model or tasks that can't be loaded, or aren't the run's, and for
            ``neurons`` below 1.
    """
    if neurons < 1:
        raise InputError(f"neurons is {neurons}; it must be at least 1.")
    contents = read_folder(run_dir)
    data, facts = None, {}
    table = all_neurons(contents)
    if table is not None:
        chosen = choose(table, neurons)
        note, explained = _why_no_texts(contents, texts), {}
        if not note:
            model, tasks = _sources(contents, model, device)
            explained = _explain(contents, model, tasks, chosen, progress=progress)
            facts = {"revision": model_revision(model)} if model_revision(model) else {}
        damaged = list(contents.damaged)
        scores = _scores(contents, table["task"], damaged)
        data = view_data(table, chosen, scores, explained, reliability_of(contents)) | {
            "note": note, "about": str(METHODS.get(contents.arguments.get("method", ""), "")),
        }  # fmt: skip
        contents = replace(contents, damaged=tuple(damaged))
    page = render(contents, data, facts)
    target = Path(out) if out is not None else contents.path / "report.html"
    write_atomically(target, lambda temporary: _write_text(temporary, page))
    return target


def render(contents: Contents, data: dict[str, Any] | None, facts: dict[str, Any]) -> str:
    """Return the page as text.

    Args:
        contents: the run folder.
        data: what the interactive view shows; None for a page without it.
        facts: more facts about the model.
    """
    arguments = contents.arguments
    title = str(arguments.get("model") or contents.path.resolve().name)
    banners = [("warning", f"Unfinished run. {reason}") for reason in contents.unfinished]
    banners += [("warning", f"Could not be read: {reason}") for reason in contents.damaged]
    if data is not None and data["note"]:
        banners.append(("note", data["note"]))
    facts_shown = facts_of(_facts(contents, facts))
    answers = [
        answers_of(name, frame)
        for name, frame in contents.tables.items()
        if is_answers(name, frame)
    ]
    tables = {name: frame for name, frame in contents.tables.items() if not is_answers(name, frame)}
    there = {
        "neurons": data is not None, "answers": bool(answers), "figures": bool(contents.figures),
        "tables": bool(tables), "facts": True,
    }  # fmt: skip
    script = _asset("page.js")
    return templates().get_template("page.html").render(
        title=title, subtitle=_subtitle(contents), banners=banners,
        sections=[name for name, is_there in there.items() if is_there],
        figures=figures_of(contents.figures), facts=facts_shown,
        tables=[table_of(name, frame) for name, frame in tables.items()], answers=answers,
        style=_asset("page.css"), script=script, data=json_script(data),
        # The browser runs this script and no other, whatever a folder's files may hold.
        script_digest=b64encode(sha256(script.encode()).digest()).decode(),
    )  # fmt: skip


def _subtitle(contents: Contents) -> str:
    arguments = contents.arguments
    parts = [", ".join(map(str, arguments.get("tasks") or ()))]
    parts.append(str(arguments.get("method") or ""))
    if "fraction" in arguments:
        parts.append(f"top {100 * arguments['fraction']:g}% of neurons")
    status = "unfinished" if contents.unfinished else "finished"
    if contents.run:
        parts.append(f"{status} {_date(contents)}")
    parts.append(f"folder {contents.path.resolve().name}")
    return " \u00b7 ".join(part for part in parts if part)


def _date(contents: Contents) -> str:
    """When the run's last call began."""
    sessions = contents.run.get("sessions") or [{}]
    return f"{str(sessions[-1].get('time', ''))[:16].replace('T', ' ')} UTC"


def _facts(contents: Contents, more: dict[str, Any]) -> dict[str, dict[str, Any]]:
    status = "unfinished" if contents.unfinished else "finished"
    about = {"folder": contents.path.resolve().name, "status": status}
    sessions = contents.run.get("sessions")
    if not sessions:
        return {"Run": about}
    # What was added to the folder by commands with arguments of their own.
    added = {name: facts for name, facts in contents.facts.items() if isinstance(facts, dict)}
    run = {
        **about,
        "date": _date(contents),
        "seconds": round(sum(session.get("seconds", 0) for session in sessions), 1),
        "calls": len(sessions),
        "units of work": len(contents.run.get("units", {})),
        **{name: fact for name, fact in contents.facts.items() if name not in added},
        **more,
    }
    machine = {name: sessions[-1].get(name) for name in ("python", "platform")}
    versions = machine | sessions[-1].get("versions", {})
    own = {name: value for name, value in contents.arguments.items() if name != "command"}
    others = {name: facts for name, facts in added.items() if facts != own}
    return {"Run": run, "Arguments": contents.arguments, **others, "Versions": versions}


def _why_no_texts(contents: Contents, wanted: bool) -> str:
    if not wanted:
        return f"{_NO_TEXTS}, as was asked for."
    if not {"model", "data", "tasks"} <= {*contents.arguments}:
        return f"{_NO_TEXTS}: run.json doesn't say which model and tasks the run is about."
    return ""


def _sources(
    contents: Contents, model: LanguageModel | None, device: str | None
) -> tuple[LanguageModel, Tasks]:
    """Load the run's tasks and, where none is given, its model; refuse others."""
    arguments, facts = contents.arguments, contents.facts
    needs = "what the neurons do can't be shown without; leave that out with --no-model "
    needs += "(texts=False)"
    try:
        tasks = load_tasks(
            arguments["data"], arguments["tasks"], columns=_mapping(arguments.get("columns"))
        )
    except (TaskNeuronsError, OSError) as error:
        raise InputError(f"The run's tasks can't be loaded, and {needs}: {error}") from error
    if tasks_digest(tasks) != facts.get("tasks_digest", tasks_digest(tasks)):
        raise InputError(
            f"The tasks {arguments['tasks']} of {arguments['data']!r} have changed since the run, "
            f"and {needs}."
        )
    if model is None:
        options = {name: arguments[name] for name in ("kind", "dtype") if name in arguments}
        try:
            model = load_model(arguments["model"], device=device, **options)
        except (TaskNeuronsError, OSError) as error:
            raise InputError(
                f"The run's model {arguments['model']!r} can't be loaded, and {needs}: {error}"
            ) from error
    model_view = view(model)
    require_same_model(
        f"The run in {contents.path}", facts.get("fingerprint", model_view.fingerprint), model_view
    )
    return model, tasks


def _explain(
    contents: Contents, model: LanguageModel, tasks: Tasks,
    chosen: Mapping[tuple[str, str], list[Pair]], *, progress: bool | None,
) -> dict[tuple[str, Pair], NeuronExplanation]:  # fmt: skip
    """Watch the chosen neurons on the examples that the run found them with."""
    arguments = contents.arguments
    prompt = Prompt(shots=arguments.get("shots", 0), seed=arguments.get("seed", 0))
    limit = min(arguments.get("limit") or _MOST_EXAMPLES, _MOST_EXAMPLES)
    wanted: dict[str, dict[Pair, None]] = {}  # of all selections together, each once
    for (_, task), pairs in chosen.items():
        wanted.setdefault(task, {}).update(dict.fromkeys(pairs))
    explained = {}
    for task, pairs in wanted.items():
        found = explain_neurons(
            model, list(pairs), tasks[task], prompt=prompt, limit=limit, progress=progress
        )
        explained |= {(task, pair): one for pair, one in zip(pairs, found, strict=True)}
    return explained


def _scores(contents: Contents, tasks: pd.Series, damaged: list[str]) -> dict[str, Tensor]:
    """Each task's scores of all neurons, where the folder has them."""
    found = {}
    for name in dict.fromkeys(tasks.astype(str)):
        file = contents.path / "scores" / f"{file_name(name)}.safetensors"
        scores = attempt(NeuronScores.load, file, damaged) if is_own(contents.path, file) else None
        if scores is not None:
            found[name] = scores.values
    return found


def _mapping(columns: Sequence[str] | None) -> dict[str, str] | None:
    """The data's names of fields to ours, as the command line wrote them down."""
    return {
        theirs: ours for ours, _, theirs in (word.partition("=") for word in columns or ())
    } or None


def _asset(name: str) -> str:
    return resources.files("tl_taskneurons.report").joinpath(name).read_text(encoding="utf-8")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
