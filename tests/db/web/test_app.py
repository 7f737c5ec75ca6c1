"""The application as a whole: what it answers where something is wrong."""

from tests.db.web.serving import Page


def test_unknown_run_is_told_with_those_that_there_are(page: Page) -> None:
    detail = page.get("/api/runs/lungs/rounds", 404)["detail"]
    assert detail.startswith("there is no run 'lungs'; the runs in ")
    assert detail.endswith("are: hearts")


def test_runs_are_listed(page: Page) -> None:
    [run] = page.get("/api/runs")
    assert (run["name"], run["agents"], run["best_value"]) == ("hearts", 2, None)
