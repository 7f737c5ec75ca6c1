"""Who contributed what: the laws of the games, and games over stored updates."""

import math
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.db import ModelDB, ModelStore, verify_database
from fl_main.db.whatif.contributions import contributions
from fl_main.db.whatif.games import leave_one_out, shapley
from fl_main.db.whatif.records import Contributions
from fl_main.db.whatif.replay import replay
from fl_main.errors import SettingsError, StoreError
from fl_main.local import LocalTask
from fl_main.training import TrainResult
from fl_main.weights import Array
from tests.db.recording import SITES, record, train

# --- games --------------------------------------------------------------------------------------

PLAYERS = "abcd"
COALITIONS = [
    frozenset(c for c, bit in zip(PLAYERS, f"{n:04b}", strict=True) if bit == "1") for n in range(16)
]
games = st.lists(st.floats(-1e3, 1e3), min_size=16, max_size=16).map(
    lambda values: dict(zip(COALITIONS, values, strict=True))
)


@given(games)
def test_shapley_is_the_mean_gain_over_all_orders_of_joining(game: dict[frozenset[str], float]) -> None:
    found = shapley(PLAYERS, game.__getitem__)
    for player in PLAYERS:
        gains = [
            game[frozenset(order[: order.index(player) + 1])] - game[frozenset(order[: order.index(player)])]
            for order in permutations(PLAYERS)
        ]
        assert found[player] == pytest.approx(sum(gains) / 24, abs=1e-9)


@given(games)
def test_shapley_leaves_nothing_over(game: dict[frozenset[str], float]) -> None:
    total = math.fsum(shapley(PLAYERS, game.__getitem__).values())
    assert total == pytest.approx(game[frozenset(PLAYERS)] - game[frozenset()], abs=1e-9)


@given(games)
def test_shapley_gives_equal_players_the_same(game: dict[frozenset[str], float]) -> None:
    def value(group: frozenset[str]) -> float:  # b counts as a, where a is not there
        return game[group if "a" in group or "b" not in group else group - {"b"} | {"a"}]

    found = shapley(PLAYERS, value)
    assert found["a"] == pytest.approx(found["b"], abs=1e-9)


@given(games)
def test_shapley_gives_nothing_to_who_never_adds_anything(game: dict[frozenset[str], float]) -> None:
    found = shapley(PLAYERS, lambda group: game[group - {"c"}])
    assert found["c"] == 0


def test_each_coalition_is_asked_once() -> None:
    asked: list[frozenset[str]] = []

    def value(group: frozenset[str]) -> float:
        asked.append(group)
        return 0.0

    shapley("abc", value)
    assert len(asked) == len(set(asked)) == 8


def test_of_two_who_bring_the_same_leaving_one_out_loses_nothing() -> None:
    def value(group: frozenset[str]) -> float:
        return float("a" in group or "b" in group)

    assert leave_one_out("abc", value) == {"a": 0.0, "b": 0.0, "c": 0.0}
    assert shapley("abc", value) == pytest.approx({"a": 0.5, "b": 0.5, "c": 0.0})


# --- of stored updates --------------------------------------------------------------------------

FOUR = {name: SITES[name] for name in ("amy", "bob", "cia", "dan")}


def bias(weights: Mapping[str, Array]) -> dict[str, float]:
    return {"bias": float(weights["bias"][0]), "one": 1.0}


def played(folder: Path, **options: Any) -> Contributions:
    with ModelDB(folder) as db:
        return contributions(db, "hearts", **{"evaluate": bias, "metric": "bias", **options})


@pytest.fixture
def hearts(folder: Path) -> Path:
    with ModelStore(folder) as store:
        record(store, sites=FOUR)
    return folder


def test_leave_one_out_is_what_replays_without_each_agent_say(hearts: Path) -> None:
    found = played(hearts, round_id=2)
    with ModelDB(hearts) as db:
        whole = bias(db.model("hearts:2").weights())["bias"]
        for agent, value in found.rounds[0].values.items():
            replay(db, "hearts", round_id=2, without=[agent], name=agent)
            assert value == whole - bias(db.model(f"{agent}:2").weights())["bias"]
    assert found.rounds[0].everybody == whole


def test_shapley_of_a_mean_by_hand(hearts: Path) -> None:
    """FedAvg's coalitions are means by examples, worked out here from the stored local models."""
    with ModelDB(hearts) as db:
        parts = {
            update.agent_id: (
                update.num_examples,
                db.model_by_id(update.model_id or "").weights()["bias"][0],
            )
            for update in db.run().updates(1)
        }
        base = db.model("hearts:0").weights()["bias"][0]

    def value(group: frozenset[str]) -> float:
        chosen = [parts[agent] for agent in group]
        mean = np.average([x for _, x in chosen], weights=[n for n, _ in chosen]) if group else base
        return float(mean)

    found = played(hearts, method="shapley", round_id=1)
    assert found.rounds[0].values == pytest.approx(shapley(list(parts), value))
    assert found.rounds[0].nobody == base


@pytest.mark.parametrize(
    "strategy", ["fedavg", "fedbuff", "median", ["fedavg", {"fedadam": {"eta": 0.1}}], "scaffold"]
)
def test_shapley_of_a_run_adds_up_to_what_its_rounds_changed(folder: Path, strategy: Any) -> None:
    with ModelStore(folder) as store:
        record(store, strategy, sites=FOUR)
    found = played(folder, method="shapley")
    changed = sum(entry.everybody - entry.nobody for entry in found.rounds)
    assert sum(entry.value for entry in found.agents) == pytest.approx(changed)
    assert [entry.rounds for entry in found.agents] == [3] * 4
    values = [entry.value for entry in found.agents]
    assert values == sorted(values, reverse=True)
    assert found.remarks[0].startswith("Contributions to a run are sums over its rounds")


def test_agents_that_sent_the_same_contributed_the_same(folder: Path) -> None:
    def alike(task: LocalTask, up: tuple[str, ...], num_steps: int) -> TrainResult:
        result = train(task, up, num_steps)
        return TrainResult({**task.weights, **{k: v * 0 + task.data for k, v in result.weights.items()}}, 10)

    with ModelStore(folder) as store:
        record(store, sites={"a": 1, "b": 1, "c": 2}, training=alike)
    found = played(folder, method="shapley", round_id=1).rounds[0].values
    assert found["a"] == pytest.approx(found["b"])
    assert found["a"] != pytest.approx(found["c"])


def test_coalition_without_a_model_reaches_what_nobody_does(folder: Path) -> None:
    """Krum needs 2 f + 3 = 5 updates of five agents: only all together make a model."""
    with ModelStore(folder) as store:
        record(store, "krum", {"f": 1}, sites={name: SITES[name] for name in [*FOUR, "eve"]})
    found = played(folder, method="shapley", round_id=1)
    changed = found.rounds[0].everybody - found.rounds[0].nobody
    assert found.rounds[0].values == pytest.approx(dict.fromkeys([*FOUR, "eve"], changed / 5))
    assert found.remarks == ("30 coalitions make no model by this strategy: they reach what nobody does.",)


def test_progress_says_how_many_models_there_are(hearts: Path) -> None:
    told: list[tuple[int, int]] = []
    played(hearts, method="shapley", progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 3 * 16) for done in range(49)]
    told.clear()
    played(hearts, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 3 * 6) for done in range(19)]


def test_nothing_is_written(hearts: Path) -> None:
    before = sorted(path.name for path in hearts.rglob("*") if path.suffix == ".safetensors")
    with ModelDB(hearts) as db, db.connect() as connection:
        events = connection.execute("SELECT count(*) FROM events").fetchone()[0]
    played(hearts)
    assert sorted(path.name for path in hearts.rglob("*") if path.suffix == ".safetensors") == before
    with ModelDB(hearts) as db, db.connect() as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone()[0] == events
    assert verify_database(hearts) == []


def test_shapley_of_many_agents_is_refused(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store, rounds=1)
    with pytest.raises(StoreError, match="round 1 has 10 agents: shapley folds every coalition of at most 8"):
        played(folder, method="shapley")
    assert len(played(folder).agents) == 10


def test_metric_must_be_one_of_the_function_s(hearts: Path) -> None:
    with pytest.raises(SettingsError, match="measures bias, one; name one of them"):
        played(hearts, metric=None)
    with pytest.raises(SettingsError, match="measures bias, one; name one of them"):
        played(hearts, metric="loss")
    with pytest.raises(SettingsError, match="says of a model that value is nan"):
        played(hearts, metric=None, evaluate=lambda weights: math.nan)
    assert played(hearts, metric=None, evaluate=lambda weights: 3).metric == "value"
