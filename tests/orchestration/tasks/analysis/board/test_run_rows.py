"""Rows of runs: a SQLite store is read by its tables, and gives what MLflow's search gives."""

from made_runs import MadeRun, write_runs
from synthetic import Story
from workspaces import client

from tasks.analysis import mlflow_runs
from tasks.analysis.board import run_rows


def test_the_tables_of_a_store_give_what_its_search_gives(synthetic, home):
    for name in ("tiny-a-1", "tiny-a-2"):
        synthetic.tell(Story(name, until="reward"))
    searched = [
        run_rows._of_run(run) for run in mlflow_runs.search(client(home), mlflow_runs.PIPELINES)
    ]
    read = run_rows.run_rows(client(home))
    assert len(read) == 2 and "ppo.beta" in read[0].params
    assert read[0].metrics["reward/accuracy.n"] == 120 and read[0].recipe == "tiny"
    assert sorted(read, key=lambda row: row.name) == sorted(searched, key=lambda row: row.name)


def test_a_deleted_run_and_a_value_that_is_no_number_are_left_out(home):
    made = [
        MadeRun("tiny-a-1", {"eval/win_rate": 0.5}),
        MadeRun("tiny-a-2", {"eval/win_rate": 0.6}),
    ]
    first, second = write_runs(home / "mlflow.db", made)
    store = client(home)
    store.log_metric(second, "eval/score_gain", float("nan"))
    store.delete_run(first)
    (row,) = run_rows.run_rows(store)
    assert (row.name, row.metrics) == ("tiny-a-2", {"eval/win_rate": 0.6})
