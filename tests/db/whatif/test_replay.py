"""Replays: what is not changed comes out as it is stored, and what is changed says so."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_main.db import ModelDB, ModelStore, verify_database
from fl_main.db.upkeep.writing import SecondWriter
from fl_main.db.whatif.again import fold_of
from fl_main.db.whatif.replay import replay
from fl_main.errors import SettingsError, StoreError, StrategyError
from fl_main.events import StepFolded
from fl_main.folding import staging_name
from fl_main.rounds import RoundMachine
from fl_main.settings import RunSettings
from fl_main.store import ModelKind, RunStatus, Verdict
from fl_main.strategies import STRATEGIES, compose
from fl_main.training import Evaluation
from fl_main.weights import Array, Layout
from tests.db.recording import SITES, WEIGHTS, record
from tests.fl_main.strategies.test_laws import CASES

TURNS = {"cohort": {"rule": "number", "number": 1, "choose": "in_turn"}, "round": {"min_updates": 1}}


def sections(strategy: Any) -> dict[str, Any]:
    """Settings without which a strategy is refused."""
    if strategy == "fedasync":
        return {"mode": "async", "round": {"min_updates": 3, "buffer": 3}}
    return dict(TURNS) if strategy == "cyclic" else {}


def replayed(folder: Path, **changes: Any) -> Any:
    with ModelDB(folder) as db:
        return replay(db, "hearts", **changes)


def digests(folder: Path, run: str, kind: ModelKind) -> dict[tuple[int, str], str]:
    """Digests of a run's models by round, and of which there are several in a round by their order."""
    found: dict[tuple[int, str], str] = {}
    with ModelDB(folder) as db:
        for model in db.run(run).models(kind):
            number = sum(round_id == model.round_id for round_id, _ in found)
            found[model.round_id, str(number)] = model.digest
    return found


def require_same(folder: Path, rounds: int, run: str = "hearts-replay") -> None:
    """A replay has the run's global models and the strategy's arrays, bit for bit."""
    stored = digests(folder, "hearts", ModelKind.GLOBAL)
    assert len(set(stored.values())) == rounds
    assert digests(folder, run, ModelKind.GLOBAL) == stored
    assert digests(folder, run, ModelKind.STATE) == digests(folder, "hearts", ModelKind.STATE)


# --- nothing changed ----------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "options"), CASES, ids=[f"{name} {options}" for name, options in CASES])
def test_every_strategy_gives_the_stored_models_again(
    folder: Path, strategy: Any, options: dict[str, Any]
) -> None:
    with ModelStore(folder) as store:
        record(store, strategy, options, settings=sections(strategy))
        found = replayed(folder)  # a daemon has the folder open
    assert [entry.is_same for entry in found.rounds] == [True] * 3
    assert found.remarks[0] == "Nothing was changed, and every model is the stored one, bit for bit."
    require_same(folder, 3)
    assert verify_database(folder) == []


STEPS: Mapping[str, Any] = {
    "median": "median",
    "fedadam": [{"norm_bound": {"bound": 1.0}}, "fedavg", {"fedadam": {"eta": 0.1}}],
    "fedbuff": [{"norm_bound": {"bound": 1.0}}, "fedbuff", {"fedadam": {"eta": 0.1}}],
    "fedasync": "fedasync",
    "scaffold": "scaffold",
    "feddyn": "feddyn",
}
WAYS: list[dict[str, Any]] = [
    {},
    {"compression": {"form": "delta"}},
    {"compression": {"codec": "int8"}},
    {"compression": {"codec": "top-k", "fraction": 0.3}},
    {"compression": {"codec": "float16", "download": "int8"}},
]
MODES = [
    (name, mode, way)
    for name, steps in STEPS.items()
    for mode in compose(steps).modes
    for way in (WAYS if name in ("median", "fedbuff") else WAYS[:2])
    if not (compose(steps).exact and "codec" in way.get("compression", {}))
]


def fleet(site: str, number: int) -> float:
    """Fast and slow sites, so that updates are stale."""
    return float(SITES[site]) + (number * 7 % 3)


@pytest.mark.parametrize(
    ("name", "mode", "way"), MODES, ids=[f"{name} {mode} {way}" for name, mode, way in MODES]
)
def test_every_mode_form_and_codec_gives_the_stored_models_again(
    folder: Path, name: str, mode: str, way: dict[str, Any]
) -> None:
    steps = STEPS[name]
    least = max(3, compose(steps).min_updates)
    of_round = {"min_updates": len(SITES)} if mode == "sync" else {"min_updates": least, "buffer": least}
    settings = {"mode": mode, "round": of_round, **way}
    with ModelStore(folder) as store:
        record(store, steps, rounds=5, settings=settings, seconds=fleet)
    found = replayed(folder)
    assert [entry.is_same for entry in found.rounds] == [True] * 5
    require_same(folder, 5)
    alone = replayed(folder, bases="stored", name="alone")
    assert all(entry.is_same for entry in alone.rounds)
    require_same(folder, 5, "alone")
    assert verify_database(folder) == []


def test_some_updates_of_these_fleets_are_stale(folder: Path) -> None:
    settings = {"mode": "async", "round": {"min_updates": 3, "buffer": 3}}
    with ModelStore(folder) as store:
        record(store, "fedbuff", rounds=5, settings=settings, seconds=fleet)
    with ModelDB(folder) as db:
        assert {update.staleness for update in db.run().updates()} >= {0, 1, 2}


def test_one_round_goes_on_from_what_that_round_had(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store, ["fedavg", {"fedadam": {"eta": 0.1}}], rounds=4)
    found = replayed(folder, round_id=3)
    assert [(entry.round_id, entry.is_same) for entry in found.rounds] == [(3, True)]
    with ModelDB(folder) as db:
        assert db.model("hearts-replay:last").digest == db.model("hearts:3").digest
        assert db.model("hearts-replay:0").digest == db.model("hearts:2").digest


def test_agents_that_joined_later_are_no_part_of_rounds_before(folder: Path) -> None:
    """FedDyn divides by the number of agents that may train: at first by two, later by ten."""
    late = {name: 2.5 for name in SITES if name not in ("trusted", "amy")}
    with ModelStore(folder) as store:
        few = {"round": {"min_agents": 2, "min_updates": 2}}
        record(store, "feddyn", settings=few, rounds=4, seconds=fleet, late=late)
    with ModelDB(folder) as db:
        assert [entry.effort.counted for entry in db.run().rounds()[1:]] == [2, 2, 10, 10]
    assert all(entry.is_same for entry in replayed(folder).rounds)


# --- what is changed ----------------------------------------------------------------------------


def mean(models: list[tuple[int, Array]]) -> Array:
    return np.average([array for _, array in models], axis=0, weights=[count for count, _ in models])


def local(folder: Path, round_id: int, leave_out: str = "") -> list[tuple[int, Array]]:
    """Examples and biases of a round's local models."""
    with ModelDB(folder) as db:
        return [
            (update.num_examples, db.model_by_id(update.model_id or "").weights()["bias"])
            for update in db.run("hearts").updates(round_id)
            if update.agent_id != leave_out
        ]


def bias(folder: Path, model: str) -> Array:
    with ModelDB(folder) as db:
        return db.model(model).weights()["bias"]


def test_without_an_agent_its_updates_and_its_examples_do_not_count(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store)
    found = replayed(folder, without=["bob"])
    for entry in found.rounds:
        assert entry.left_out == ("bob",)
        assert "bob" not in entry.agents
        expected = mean(local(folder, entry.round_id, leave_out="bob"))
        np.testing.assert_allclose(bias(folder, f"hearts-replay:{entry.round_id}"), expected, rtol=1e-12)
        assert not entry.is_same
    assert any("not unlearning" in remark for remark in found.remarks)
    assert any("only the first round is exact" in remark for remark in found.remarks)


def test_another_strategy(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store)
    found = replayed(folder, strategy="median")
    for entry in found.rounds:
        expected = np.median([array for _, array in local(folder, entry.round_id)], axis=0)
        np.testing.assert_array_equal(bias(folder, f"hearts-replay:{entry.round_id}"), expected)
    assert found.strategy == "median"


def test_a_server_optimizer_keeps_its_state_from_round_to_round(folder: Path) -> None:
    """FedAvgM, x ← x + v with v ← β v + (mean − x), worked out from the stored local models."""
    with ModelStore(folder) as store:
        record(store)
    replayed(folder, strategy=["fedavg", {"fedavgm": {"beta": 0.5, "eta": 1.0}}])
    x, v = WEIGHTS["bias"], np.zeros(3)
    for round_id in (1, 2, 3):
        v = 0.5 * v + (mean(local(folder, round_id)) - x)
        x = x + v
        np.testing.assert_allclose(bias(folder, f"hearts-replay:{round_id}"), x, rtol=1e-12)


def test_on_stored_bases_each_round_stands_by_itself(folder: Path) -> None:
    """The same with each round on the stored model before it, and no momentum before any."""
    with ModelStore(folder) as store:
        record(store)
    found = replayed(folder, strategy=["fedavg", {"fedavgm": {"beta": 0.5, "eta": 0.5}}], bases="stored")
    for round_id in (1, 2, 3):
        base = bias(folder, f"hearts:{round_id - 1}")
        expected = base + 0.5 * (mean(local(folder, round_id)) - base)
        np.testing.assert_allclose(bias(folder, f"hearts-replay:{round_id}"), expected, rtol=1e-12)
    assert any("do not follow each other" in remark for remark in found.remarks)
    assert any("began anew before every round" in remark for remark in found.remarks)


def test_differences_are_those_from_the_stored_models(folder: Path) -> None:
    """FedBuff adds the mean difference from what each update was trained on, here without bob."""
    with ModelStore(folder) as store:
        record(store, "fedbuff", {"eta": 0.5}, settings={"compression": {"form": "delta"}})
    found = replayed(folder, without=["bob"])
    x = WEIGHTS["bias"]
    for round_id in (1, 2, 3):
        base = bias(folder, f"hearts:{round_id - 1}")
        x = x + 0.5 * np.mean([array - base for _, array in local(folder, round_id, "bob")], axis=0)
        np.testing.assert_allclose(bias(folder, f"hearts-replay:{round_id}"), x, rtol=1e-9)
    assert any("differs from the stored model that it was trained on" in remark for remark in found.remarks)


def test_noise_is_drawn_anew_and_that_is_said(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store, ["fedavg", {"noise": {"std": 0.1}}])
    found = replayed(folder)
    assert not any(entry.is_same for entry in found.rounds)
    assert found.remarks == (
        "The noise of this strategy was drawn anew: nobody keeps it, so no two replays are alike.",
    )


def test_round_that_the_updates_left_do_not_make_keeps_the_model_before(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store, "cyclic", settings=dict(TURNS), rounds=3)
    with ModelDB(folder) as db:
        second = db.run().updates(2)[0].agent_id
    found = replayed(folder, without=[second])
    assert [entry.model_id is None for entry in found.rounds] == [False, True, False]
    assert found.rounds[1].reason.startswith("0 updates, but the strategy needs 1")
    assert any(remark.startswith("round 2 made no model, the one before stayed") for remark in found.remarks)
    with ModelDB(folder) as db:
        assert [entry.status for entry in db.run("hearts-replay").rounds()] == [
            "done",
            "done",
            "failed",
            "done",
        ]
    assert verify_database(folder) == []


# --- the new run --------------------------------------------------------------------------------


def test_new_run_says_what_it_was_made_from(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store)
    replayed(folder, strategy="multi_krum", options={"f": 1}, without=["bob"])
    with ModelDB(folder) as db:
        run, of = db.run("hearts-replay"), db.run("hearts")
        assert (run.status, run.facts.reason) == (
            RunStatus.FINISHED,
            "replay of hearts: strategy multi_krum, without bob",
        )
        [event] = run.events("run_replayed")
        assert event.details["of_run_id"] == of.run_id
        assert event.details["without"] == ["bob"]
        assert (run.facts.settings["strategy"], run.facts.settings["strategy_options"]) == (
            "multi_krum",
            {"f": 1},
        )
        first = db.model("hearts-replay:0")
        assert [parent.model_id for parent in first.parents] == [db.model("hearts:0").model_id]
        assert run.facts.settings["initial"]["model"] == db.model("hearts:0").model_id
        own = {update.model_id for update in of.updates(2) if update.agent_id != "bob"}
        assert {parent.model_id for parent in db.model("hearts-replay:2").parents} == own
        assert [agent.name for agent in run.agents()] == [name for name in SITES if name != "bob"]
        assert {update.verdict for update in run.updates()} == {Verdict.ACCEPTED}
        assert {"kept", "distance"} <= set(run.updates(1)[0].notes)
        assert run.tags() == {"final": db.model("hearts-replay:3").model_id, "best": run.facts.best_model_id}


def test_new_runs_are_numbered_and_a_name_that_is_taken_is_refused(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store, rounds=1)
    assert [replayed(folder).name for _ in range(3)] == [
        "hearts-replay",
        "hearts-replay-2",
        "hearts-replay-3",
    ]
    assert replayed(folder, name="mine").name == "mine"
    with pytest.raises(StoreError, match="there is a run 'mine' already"):
        replayed(folder, name="mine")
    with pytest.raises(SettingsError, match="name"):
        replayed(folder, name="not a name")
    with ModelDB(folder) as db:
        assert len(db.runs()) == 5


def test_daemon_starts_with_a_replay_in_its_database(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store)
        replayed(folder, strategy="krum")
    with ModelStore(folder) as store:
        assert [snapshot.run.name for snapshot in store.snapshots()] == ["hearts", "hearts-replay"]


def test_how_a_replay_stood_after_a_round_is_known_as_of_any_run(folder: Path) -> None:
    """So it can be rolled back to one of its rounds, and be trained on from there."""
    with ModelStore(folder) as store:
        record(store, "fedadam")
        found = replayed(folder, without=["bob"])
        for entry in found.rounds:
            stood = store.milestone(found.run_id, entry.round_id)
            assert stood is not None
            assert (stood.model_id, stood.rounds_done) == (entry.model_id, entry.round_id)
            states = {store.find_model(state_id) for state_id in stood.state_ids.values()}
            assert {state.round_id for state in states if state} == {entry.round_id}
        first = store.milestone(found.run_id, 0)
        assert first is not None
        assert (first.rounds_done, first.state_ids) == (0, {})


def test_replay_of_a_replay(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store)
    replayed(folder, without=["bob"])
    with ModelDB(folder) as db:
        found = replay(db, "hearts-replay")
    assert all(entry.is_same for entry in found.rounds)
    assert verify_database(folder) == []


def test_measured(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store, settings={"best": {"metric": "bias", "direction": "max"}})

    def measure(weights: Mapping[str, Array]) -> dict[str, float]:
        return {"bias": float(weights["bias"][0]), "other": 1.0}

    found = replayed(folder, strategy="median", evaluate=measure)
    with ModelDB(folder) as db:
        run = db.run("hearts-replay")
        for entry in found.rounds:
            assert entry.measured["bias"] == bias(folder, f"hearts-replay:{entry.round_id}")[0]
            assert entry.stored["bias"] == bias(folder, f"hearts:{entry.round_id}")[0]
        values = {metric.round_id: metric.value for metric in run.metrics("evaluate", "bias")}
        assert values == {entry.round_id: entry.measured["bias"] for entry in found.rounds}
        assert run.facts.best_value == max(values.values())
        assert run.best is not None
    assert verify_database(folder) == []


def test_options_that_are_not_named_stay_as_the_run_had_them(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store, "multi_krum", {"f": 1, "m": 4}, rounds=1)
    replayed(folder, options={"m": 2})
    replayed(folder, strategy="multi_krum", options={"f": 1}, name="other")
    with ModelDB(folder) as db:
        stated = [db.run(name).facts.settings["strategy_options"] for name in ("hearts-replay", "other")]
    assert stated == [{"f": 1, "m": 2}, {"f": 1}]


def test_nothing_stays_staged_of_a_replay_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelStore(folder) as store:
        record(store, rounds=1)

    def failing(files: SecondWriter, settings: RunSettings, machine: RoundMachine) -> StepFolded:
        name = staging_name(machine.run.run_id, fold_of(machine))
        files.stage(f"{name}.weights", Layout.free(1)).close()
        raise StrategyError("the strategy failed")

    monkeypatch.setattr("fl_main.db.whatif.replay.folded", failing)
    with pytest.raises(StrategyError):
        replayed(folder)
    assert list((folder / "models" / ".staging").iterdir()) == []


def test_the_function_may_be_that_of_the_agents(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store, rounds=1)
    found = replayed(folder, evaluate=lambda weights: Evaluation({"loss": np.float64(0.5)}, num_examples=3))
    assert found.rounds[0].measured == {"loss": 0.5}


@pytest.mark.parametrize("wrong", ["text", None, {}, {"a": "b"}])
def test_what_is_no_number_is_refused(folder: Path, wrong: Any) -> None:
    with ModelStore(folder) as store:
        record(store, rounds=1)
    match = "give back a number, or a mapping of names to numbers"
    without_a_trace(folder, SettingsError, match, evaluate=lambda weights: wrong)  # found out on the base
    answers = iter([1.0, wrong])
    with pytest.raises(SettingsError, match=match):
        replayed(folder, evaluate=lambda weights: next(answers))
    with ModelDB(folder) as db:
        broken = db.run("hearts-replay").facts
    assert broken.status is RunStatus.STOPPED
    assert "it broke off after 0 of 1 rounds" in broken.reason
    assert verify_database(folder) == []


# --- what cannot be replayed --------------------------------------------------------------------


def without_a_trace(folder: Path, error: type[Exception], match: str, **changes: Any) -> None:
    with pytest.raises(error, match=match):
        replayed(folder, **changes)
    with ModelDB(folder) as db:
        assert [run.name for run in db.runs()] == ["hearts"]


def test_update_that_is_not_stored_is_named_with_the_reason(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store)
    with ModelDB(folder) as db:
        [gone] = [model.model_id for model in db.run().models("local", 2, "bob")]
    with SecondWriter(folder) as writer, writer.changing("delete a model") as change:
        change.remove([gone], "deleted by the retention settings")
    message = (
        rf"round 2 cannot be made again: the update of bob \(model {gone}\) is not stored, "
        "because: deleted by the retention settings"
    )
    without_a_trace(folder, StoreError, message)
    without_a_trace(folder, StoreError, message, round_id=2)
    assert replayed(folder, round_id=1).rounds[0].is_same
    assert replayed(folder, without=["bob"], name="others").rounds[2].model_id


def test_what_there_is_not_is_refused(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store)
    without_a_trace(
        folder, StoreError, r"round 9 of run 'hearts' made no global model by training", round_id=9
    )
    without_a_trace(
        folder, StoreError, r"has no agent 'zoe'; its agents are: trusted, amy, bob", without=["zoe"]
    )
    without_a_trace(folder, SettingsError, r"'best' is not one of", strategy="best")
    without_a_trace(folder, SettingsError, r"scaffold needs 'control", strategy="scaffold")
    without_a_trace(folder, SettingsError, r"cannot be imported", evaluate="nowhere:function")


def test_strategy_that_is_not_valid_in_the_run_s_mode_is_refused(folder: Path) -> None:
    with ModelStore(folder) as store:
        settings = {"mode": "async", "round": {"min_updates": 3, "buffer": 3}}
        record(store, "fedbuff", settings=settings)
    without_a_trace(folder, SettingsError, "not valid in it", strategy="scaffold")


def test_every_strategy_is_among_those_that_were_tried() -> None:
    assert {name for name, _ in CASES if isinstance(name, str)} == set(STRATEGIES)
