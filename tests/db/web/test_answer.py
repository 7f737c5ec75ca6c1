"""The answer in words: how is it going, is somebody odd, which model to take."""

from dataclasses import replace

from fl_main.db.records import Agent, RunFacts
from fl_main.db.web.answer import Known, Missed, answer, far
from fl_main.settings import RunSettings
from fl_main.store import Phase, RunStatus

SETTINGS = RunSettings.model_validate(
    {
        "name": "hearts",
        "round": {"min_agents": 4},
        "end": {"rounds": 20},
        "best": {"metric": "accuracy", "direction": "max"},
    }
)
RUN = RunFacts(
    "r", "hearts", RunStatus.RUNNING, Phase.COLLECTING, 13, 12, 0, "g12", "g9", 0.967, 9, 600.0, "", 4,
    {}, "", {}, 0.0, 0.0,
)  # fmt: skip


def agent(name: str, **more: object) -> Agent:
    found = Agent(
        "r", name, f"site {name}", {}, ("train",), "fl_main", True, 0.0, None, 0.0, 12, 0, None, 0, ""
    )
    return replace(found, **more)  # type: ignore[arg-type]


KNOWN = Known(RUN, SETTINGS, [agent(name) for name in "abcd"], (3, 4), (4, 200), far={})


def test_run_under_way_tells_who_is_here_what_is_best_and_who_is_waited_for() -> None:
    going = answer(replace(KNOWN, waits=["c"])).going
    assert going.first == "Round 13 of 20: 3 of 4 updates here"
    assert going.more == (
        "4 of 4 agents are here.",
        "Best accuracy 0.967 on held-out data, in round 9.",
        "Waits for site c.",
    )


def test_round_whose_number_is_not_that_of_the_done_ones_says_both() -> None:
    run = replace(RUN, round_id=28, rollbacks=1)
    assert answer(replace(KNOWN, run=run)).going.first == "Round 28, 12 of 20 done: 3 of 4 updates here"
    paused = replace(run, status=RunStatus.PAUSED)
    assert answer(replace(KNOWN, run=paused)).going.first == "Paused in round 28, 12 of 20 done"


def test_run_that_lacks_agents_says_how_many() -> None:
    run = replace(RUN, phase=Phase.WAITING)
    agents = [agent("a"), agent("b", is_present=False)]
    going = answer(replace(KNOWN, run=run, agents=agents)).going
    assert going.first == "12 of 20 rounds done, waiting"
    assert "A round needs 4 agents: waits for 3 more." in going.more


def test_run_that_nobody_came_to() -> None:
    run = replace(RUN, phase=Phase.WAITING, rounds_done=0, best_model_id=None, best_value=None, model_id=None)
    found = answer(replace(KNOWN, run=run, agents=[]))
    assert found.going.first == "Waiting for its first agents"
    assert found.odd.first == "Too early to say"
    assert found.take.first == "None yet"
    assert found.take.model == ""


def test_run_in_which_nothing_happens_any_more() -> None:
    going = answer(replace(KNOWN, silent_s=7200.0)).going
    assert going.more[0] == "Nothing happened for 2 h: `fl why` tells whether its aggregator is up."
    assert going.tone == "warn"
    assert answer(replace(KNOWN, silent_s=1100.0)).going.tone == ""  # its rounds may take 2 x 600 s
    over = replace(KNOWN, run=replace(RUN, status=RunStatus.FINISHED), silent_s=1e9)
    assert answer(over).going.tone == "good"


def test_paused_stopped_finished_and_failed_runs_say_so_and_why() -> None:
    def going(status: RunStatus, **more: object) -> tuple[str, str]:
        run = replace(RUN, status=status, reason="too few updates", **more)  # type: ignore[arg-type]
        part = answer(replace(KNOWN, run=run)).going
        assert "Too few updates." in part.more
        return part.first, part.tone

    assert going(RunStatus.PAUSED) == ("Paused in round 13 of 20", "warn")
    assert going(RunStatus.STOPPED) == ("Stopped after 12 of 20 rounds", "warn")
    assert going(RunStatus.FAILED) == ("Failed after 12 of 20 rounds", "bad")
    assert going(RunStatus.FINISHED, rounds_done=20) == ("Finished: 20 rounds in 10 min of run time", "good")


def test_failed_rounds_in_a_row_are_told_first() -> None:
    going = answer(replace(KNOWN, run=replace(RUN, failed_rounds=2))).going
    assert going.more[0] == "The last 2 rounds failed."
    assert going.tone == "warn"


def test_nobody_is_odd() -> None:
    odd = answer(KNOWN).odd
    assert (odd.first, odd.tone) == ("Nobody", "good")


def test_outliers_come_before_those_who_are_late_or_refused() -> None:
    agents = [
        agent("a"),
        agent("b", outlying=3),
        agent("c", quarantined="3 outliers in a row"),
        agent("d"),
    ]
    missed = {"a": Missed(late=4), "d": Missed(refused=1, reason="NaN")}
    odd = answer(replace(KNOWN, agents=agents, missed=missed)).odd
    assert odd.first == "site c, site b, site a and site d"
    assert odd.tone == "bad"
    assert odd.more == (
        "site c gets no more tasks: 3 outliers in a row.",
        "site b was an outlier in the last 3 rounds.",
        "site a was late 4 times in the last 10 rounds.",
        "site d was refused once in the last 10 rounds (NaN).",
    )


def test_a_late_update_now_and_then_is_nothing_odd() -> None:
    assert answer(replace(KNOWN, missed={"a": Missed(late=2)})).odd.first == "Nobody"


def test_outliers_that_were_measured_are_odd_if_they_are_often() -> None:
    often = far([True, False, True, True, False])
    lately = far([False, True, True, True])
    seldom = far([False, True, False, True])
    odd = answer(replace(KNOWN, far={"a": often, "b": lately, "c": seldom, "d": far([])})).odd
    assert odd.more == (
        "site a was an outlier in 3 of the last 5 rounds.",
        "site b was an outlier in the last 3 rounds.",
    )
    assert answer(replace(KNOWN, far={"a": far([True])})).odd.first == "site a"


def test_what_was_not_measured_is_not_said_to_be_calm() -> None:
    odd = answer(replace(KNOWN, far=None)).odd
    assert odd.first == "Nobody was late or refused"
    assert odd.more == ("How far updates lie apart was not measured; the heat map of its agents does.",)
    assert odd.tone == ""


def test_many_odd_agents_are_counted() -> None:
    agents = [agent(str(number), outlying=1) for number in range(8)]
    odd = answer(replace(KNOWN, agents=agents)).odd
    assert odd.first == "site 0, site 1, site 2, site 3 and 4 more"
    assert len(odd.more) == 5


def test_best_model_is_the_one_to_take_and_what_it_rests_on() -> None:
    take = answer(KNOWN).take
    assert (take.first, take.model) == ("hearts:best", "g9")
    assert take.more == (
        "Of round 9: the highest accuracy, 0.967.",
        "Measured by 4 agents on 200 examples.",
    )


def test_without_a_measurement_the_tagged_or_the_last_model() -> None:
    run = replace(RUN, best_model_id=None, best_value=None, best_round=0)
    assert answer(replace(KNOWN, run=run, tags={"final": "g12"})).take.first == "hearts:final"
    assert answer(replace(KNOWN, run=run)).take.first == "hearts:last"


def test_names_of_strangers_are_made_harmless() -> None:
    agents = [replace(agent("a", outlying=1), name="\u202eevil")]
    assert answer(replace(KNOWN, agents=agents)).odd.first == "\\u202eevil"
