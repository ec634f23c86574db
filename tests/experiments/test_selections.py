import helpers
import pandas as pd
import pytest

from tl_taskneurons.evaluation.deactivation import evaluate_condition
from tl_taskneurons.experiments.studies import selections
from tl_taskneurons.loading.tasks import load_tasks

SIZES = (
    "--tasks present_past,singular_plural --detect 4 --choose 2 --test 3 --others 2 --controls 2 "
    "--shots 1 --fractions 0.2"
)


@pytest.fixture
def command(tmp_path):
    folder = helpers.save_tiny("llama", tmp_path / "tiny", intermediate_size=96)
    return [*SIZES.split(), "--model", str(folder), "--out", str(tmp_path / "run")]


@pytest.mark.needs("once")
def test_the_table_has_every_cell_and_a_stopped_run_goes_on(command, tmp_path, monkeypatch):
    done = []

    def stopping(*args, **kwargs):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(1)
        return evaluate_condition(*args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(selections, "evaluate_condition", stopping)
        selections.main(command)
    selections.main(command)
    table = pd.read_parquet(tmp_path / "run" / "table.parquet")
    assert len(table) == 2 * 1 * 2 * 2  # ablations x fractions x selections x tasks
    assert set(table["ablation"]) == {"zero", "mean"}
    assert "plain" in set(table["selection"])
    assert (table["n_controls"] == 2).all()
    matrix = pd.read_parquet(tmp_path / "run" / "matrix.parquet")
    own = matrix["silenced"] == matrix["task"]
    assert set(matrix.loc[own, "n"]) == {3}
    assert set(matrix.loc[~own, "n"]) == {2}

    again = [*command[:-1], str(tmp_path / "unbroken")]
    selections.main(again)
    for name in ("table.parquet", "matrix.parquet"):
        stopped, unbroken = (tmp_path / run / name for run in ("run", "unbroken"))
        assert stopped.read_bytes() == unbroken.read_bytes()


def test_the_selection_is_chosen_on_train_examples_that_detection_did_not_see():
    (task,) = load_tasks("builtin", ["present_past"])
    held_out = selections._held_out(task, selections.Plan(n_detect=5, n_choose=3))
    assert held_out.test == task.train[5:8]
    assert not set(held_out.test) & set(task.test)
    with pytest.raises(ValueError, match="more than the 500 used for detection"):
        selections._held_out(task, selections.Plan(n_detect=500))


def test_the_best_contrast_has_the_highest_mean_specificity_and_is_never_plain():
    choice = pd.DataFrame(
        {"selection": ["plain", "plain", "rank", "rank", "exclude", "exclude"],
         "loss_specificity": [9.0, 9.0, 1.0, 2.0, 0.0, 2.5]}
    )  # fmt: skip
    assert selections.best_contrast(choice) == "rank"


def test_all_tasks_of_a_source_by_one_word(command, tmp_path, monkeypatch):
    seen = []

    def look(model, tasks, folder, plan, progress):
        seen.append((tasks.names, plan.max_new_tokens, plan.contrast))
        raise KeyboardInterrupt

    monkeypatch.setattr(selections, "run", look)
    with pytest.raises(KeyboardInterrupt):
        options = "--data mini --tasks all --max-new-tokens 7 --contrast rank"
        selections.main([*command, *options.split()])
    assert seen == [(load_tasks("mini", limit=1).names, 7, "rank")]
