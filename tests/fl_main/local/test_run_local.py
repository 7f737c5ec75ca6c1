"""Federated training in one call, without a daemon."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fl_main import Evaluation, TrainResult, run_local
from fl_main.compression import DOWNLOADS
from fl_main.errors import LocalProtocolError, RunFailedError, SettingsError, WeightsError
from fl_main.local import LocalRound, LocalRun, LocalTask
from fl_main.local.driver import Driver
from fl_main.local.sites import Program
from fl_main.settings import RunSettings
from fl_main.sources import Held, Packed
from fl_main.strategies import Block, FedAvg
from fl_main.weights import Array, Layout
from tests.fl_main.strategies.test_fold import Momentum

Site = tuple[Array, Array]


def some_sites(sizes: Mapping[str, int], features: int = 3) -> dict[str, Site]:
    """Return data of a linear model with noise, unevenly split."""
    noise = np.random.default_rng(7)
    truth = noise.normal(size=features)
    sites = {}
    for name, size in sizes.items():
        inputs = noise.normal(size=(size, features))
        sites[name] = inputs, inputs @ truth + 0.1 * noise.normal(size=size)
    return sites


def gradient(weights: Array, site: Site) -> Array:
    inputs, outputs = site
    return np.asarray(2 / len(outputs) * inputs.T @ (inputs @ weights - outputs))


def one_step(task: LocalTask) -> TrainResult:
    """FedSGD: one step with all local data."""
    weights = task.weights["w"] - task.config["rate"] * gradient(task.weights["w"], task.data)
    return TrainResult({"w": weights}, num_examples=len(task.data[1]), num_steps=1)


def loss(weights: Mapping[str, Array], site: Site) -> Evaluation:
    inputs, outputs = site
    return Evaluation({"loss": np.mean((inputs @ weights["w"] - outputs) ** 2)}, len(outputs))


def test_fedsgd_equals_pooled_gradient_descent() -> None:
    sites = some_sites({"a": 5, "b": 40, "c": 17})
    found = run_local(one_step, sites, {"w": np.zeros(3)}, rounds=30, config={"rate": 0.1})
    pooled = (np.concatenate([x for x, _ in sites.values()]), np.concatenate([y for _, y in sites.values()]))
    weights = np.zeros(3)
    for _ in range(30):
        weights = weights - 0.1 * gradient(weights, pooled)
    assert found.rounds == 30
    np.testing.assert_allclose(found.weights["w"], weights, rtol=1e-12)


def test_every_round_is_evaluated_on_the_sites_data() -> None:
    sites = some_sites({"a": 5, "b": 15})
    found = run_local(one_step, sites, {"w": np.zeros(3)}, rounds=3, config={"rate": 0.1}, evaluate=loss)
    assert [row["round"] for row in found.metrics] == [1, 2, 3]
    last = [loss(found.weights, site).metrics["loss"] for site in sites.values()]
    assert found.metrics[-1]["evaluate_loss"] == pytest.approx((5 * last[0] + 15 * last[1]) / 20)
    assert found.metrics[-1]["evaluate_loss"] < found.metrics[0]["evaluate_loss"]


def test_metrics_of_training_are_means_too() -> None:
    def train(task: LocalTask) -> TrainResult:
        return TrainResult(task.weights, task.data, metrics={"loss": float(task.data)})

    found = run_local(train, {"a": 1, "b": 3}, {"w": np.zeros(1)}, rounds=1)
    assert found.metrics == [{"round": 1, "train_loss": 2.5}]  # (1 x 1 + 3 x 3) / 4


def test_statistics_of_all_sites_reach_the_training() -> None:
    seen = []

    def train(task: LocalTask) -> TrainResult:
        seen.append((task.statistics["n"].item(), task.statistics["sum"].tolist()))
        return TrainResult(task.weights, 1)

    def statistics(data: Array) -> dict[str, Any]:
        return {"n": len(data), "sum": data.sum(axis=0)}

    sites = {"a": np.array([[1.0, 2.0]]), "b": np.array([[3.0, 4.0], [5.0, 6.0]])}
    run_local(train, sites, {"w": np.zeros(2)}, rounds=1, statistics=statistics)
    assert seen == [(3, [9.0, 12.0])] * 2


def test_each_site_keeps_its_own_state() -> None:
    seen = []

    def train(task: LocalTask) -> TrainResult:
        count = task.state.get("count", np.zeros(1)) + task.data
        seen.append((task.site, task.round_id, count.item()))
        return TrainResult(task.weights, 1, state={"count": count})

    run_local(train, {"a": 1, "b": 10}, {"w": np.zeros(1)}, rounds=3)
    assert seen == [("a", 1, 1), ("b", 1, 10), ("a", 2, 2), ("b", 2, 20), ("a", 3, 3), ("b", 3, 30)]


def test_tasks_repeat_with_the_seed() -> None:
    def seeds(seed: int) -> list[int]:
        found = []

        def train(task: LocalTask) -> TrainResult:
            found.append(task.seed)
            return TrainResult(task.weights, 1)

        run_local(train, {"a": 0, "b": 0}, {"w": np.zeros(1)}, rounds=2, seed=seed)
        return found

    assert seeds(1) == seeds(1) != seeds(2)
    assert len(set(seeds(1))) == 4


def test_the_given_weights_are_not_changed_and_the_tasks_are_read_only() -> None:
    initial = {"w": np.zeros(2)}

    def train(task: LocalTask) -> TrainResult:
        with pytest.raises(ValueError, match="read-only"):
            task.weights["w"][0] = 1.0
        return TrainResult({"w": task.weights["w"] + 1}, 1)

    found = run_local(train, {"a": 0}, initial, rounds=2)
    assert (initial["w"].tolist(), found.weights["w"].tolist()) == ([0.0, 0.0], [2.0, 2.0])


class Controlled(FedAvg):
    """Sends its state down and adds up what comes back in a channel."""

    state = ("control",)
    down = ("control",)
    up = ("control",)

    def combine(self, block: Block) -> None:
        super().combine(block)
        for change in block.updates("control"):
            block.state["control"][:] += change


def test_channels_go_down_and_up() -> None:
    seen = []

    def train(task: LocalTask) -> TrainResult:
        control = task.channels.get("control")
        seen.append(control["w"].tolist() if control else None)
        return TrainResult(task.weights, 1, channels={"control": {"w": np.full(2, float(task.data))}})

    run_local(train, {"a": 1, "b": 2}, {"w": np.zeros(2)}, rounds=3, strategy=f"{__name__}:Controlled")
    assert seen == [None, None, [3.0, 3.0], [3.0, 3.0], [6.0, 6.0], [6.0, 6.0]]


def test_payloads_of_free_layout_may_be_of_any_length() -> None:
    def tree(task: LocalTask) -> TrainResult:
        grown = b"tree%d" % task.data * task.data * task.round_id
        return TrainResult({"payload": np.frombuffer(grown, np.uint8)}, num_examples=task.data)

    stump = {"payload": np.frombuffer(b"stump", np.uint8)}
    seen = list[bytes]()
    run = run_local(
        tree,
        {"a": 1, "b": 2},
        stump,
        rounds=2,
        strategy="tests.system.bagging:Bagging",
        settings={"payload": "free"},
        on_round=lambda made: seen.append(made.weights["payload"].tobytes()),
    )
    assert seen == [b"tree1|tree2tree2", b"tree1tree1|tree2tree2tree2tree2"]
    assert run.weights["payload"].tobytes() == seen[-1]


def test_state_of_a_strategy_is_kept_over_the_rounds() -> None:
    def train(task: LocalTask) -> TrainResult:
        return TrainResult({"w": task.weights["w"] + 1}, 1)

    path = f"{Momentum.__module__}:Momentum"
    found = run_local(train, {"a": 0, "b": 0}, {"w": np.zeros(2)}, rounds=3, strategy=path)
    assert found.weights["w"].tolist() == [4.25, 4.25]  # v = 1, 1.5, 1.75


def test_memory_does_not_grow_with_the_rounds() -> None:
    sizes = []

    def watched(weights: Mapping[str, Array], site: Site) -> Evaluation:
        sizes.append(len(driver._files))
        return loss(weights, site)

    sites = some_sites({"a": 5, "b": 15})
    settings = RunSettings.model_validate(
        {"name": "local", "config": {"rate": 0.1}, "end": {"rounds": 20}, "evaluate": {"every": 1}}
    )
    driver = Driver(settings, Program(one_step, watched), sites, {"w": np.zeros(3)})
    driver.run()
    assert sizes == [1] * 40  # the model that is measured, the base of the next round


# --- what goes wrong ---------------------------------------------------------------------


def good(task: LocalTask) -> TrainResult:
    return TrainResult(task.weights, 1)


def test_an_error_in_training_reaches_the_caller() -> None:
    def train(task: LocalTask) -> TrainResult:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        run_local(train, {"a": 0}, {"w": np.zeros(1)})


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (TrainResult({"v": np.zeros(1)}, 1), "b: array 'w' of the run's model is missing"),
        (TrainResult({"w": np.zeros(2)}, 1), r"b: array 'w' is F64 \[2\]"),
        (TrainResult({"w": np.full(1, np.nan)}, 1), "b: weights: array 'w' has values that are NaN"),
        (TrainResult({"w": np.zeros(1)}, 0), "b: num_examples is 0"),
        (TrainResult({"w": np.zeros(1)}, 1, channels={"x": {"w": np.zeros(1)}}), "b: the payload 'x'"),
        (None, "b: train returned NoneType, not a TrainResult"),
    ],
)
def test_an_update_that_cannot_count_ends_the_run_and_names_the_site(result: Any, words: str) -> None:
    def train(task: LocalTask) -> Any:
        return result if task.site == "b" else good(task)

    with pytest.raises(RunFailedError, match=words):
        run_local(train, {"a": 0, "b": 0, "c": 0}, {"w": np.zeros(1)})


def test_evaluate_must_give_an_evaluation() -> None:
    with pytest.raises(LocalProtocolError, match=r"must return an Evaluation.*, not float"):
        run_local(good, {"a": 0}, {"w": np.zeros(1)}, evaluate=lambda weights, data: 0.5)  # type: ignore[arg-type, return-value]


def test_what_is_no_array_is_a_weights_error() -> None:
    with pytest.raises(WeightsError):
        run_local(good, {"a": 0}, {"w": "text"})


@pytest.mark.parametrize("count", [10.5, "10"])
def test_examples_that_are_no_whole_number_are_named(count: Any) -> None:
    words, measured = f"^num_examples must be a whole number, not {count!r}$", Evaluation({}, count)
    with pytest.raises(WeightsError, match=words):
        run_local(lambda task: TrainResult(task.weights, count), {"a": 0}, {"w": np.zeros(1)}, rounds=1)
    with pytest.raises(WeightsError, match=words):
        run_local(good, {"a": 0}, {"w": np.zeros(1)}, rounds=1, evaluate=lambda weights, data: measured)


@pytest.mark.parametrize(
    "options",
    [
        {"sites": {}},
        {"sites": ["a", "b"]},
        {"rounds": 0},
        {"strategy": "fedawg"},
        {"strategy_options": {"cup": 1}},
        {"seed": -1},
        {"config": {"rate": np.zeros(1)}},
    ],
)
def test_settings_out_of_range_are_settings_errors(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        run_local(good, **{"sites": {"a": 0}, "initial_weights": {"w": np.zeros(1)}, **options})


# --- modes, in virtual time ----------------------------------------------------------------


def plus_one(task: LocalTask) -> TrainResult:
    return TrainResult({"w": task.weights["w"] + 1}, 1)


def in_virtual_time(mode: str, times: dict[str, float], rounds: int, **of_round: object) -> list[LocalRound]:
    """Let sites that take these times add one to a weight; return what came of the rounds."""
    made: list[LocalRound] = []
    run_local(
        plus_one,
        dict.fromkeys(times),
        {"w": np.zeros(1)},
        rounds=rounds,
        settings={"mode": mode, "round": {"min_agents": 2, "min_updates": 2, **of_round}},
        seconds=lambda site, number: times[site],
        on_round=made.append,
    )
    return made


def test_a_sync_round_takes_as_long_as_its_slowest_site_and_the_fast_one_is_idle() -> None:
    first, second = in_virtual_time("sync", {"fast": 1.0, "slow": 10.0}, 2)
    assert (first.time_s, second.time_s) == (10.0, 20.0)
    assert (first.busy_s, first.wasted_s, first.idle_s) == (11.0, 0.0, 9.0)
    assert (second.busy_s, second.wasted_s, second.idle_s) == (11.0, 0.0, 9.0)


def test_an_async_run_goes_on_with_the_fast_site_and_counts_the_slow_one_when_it_comes() -> None:
    rounds = in_virtual_time("async", {"fast": 1.0, "slow": 10.5}, 6, buffer=2)
    assert [made.time_s for made in rounds] == [2.0, 4.0, 6.0, 8.0, 10.0, 11.0]
    assert [list(made.staleness) for made in rounds] == [[0, 0]] * 5 + [[0, 5]]
    assert all(made.idle_s == 0 for made in rounds)
    # Each fresh update adds 1; in the last buffer one counts 1, the other 1/√(1 + 5); halved by K.
    last = 5 + (1 + 6**-0.5) / 2
    assert [made.weights["w"][0] for made in rounds] == pytest.approx([1, 2, 3, 4, 5, last])


def test_a_semi_sync_round_counts_what_was_late_in_the_one_before() -> None:
    rounds = in_virtual_time("semi-sync", {"a": 1.0, "b": 1.0, "slow": 1.5}, 2, buffer=2)
    assert [made.time_s for made in rounds] == [1.0, 2.0]
    assert [sorted(made.staleness) for made in rounds] == [[0, 0], [0, 1]]


def test_a_deadline_passes_in_virtual_time() -> None:
    [made] = in_virtual_time("sync", {"a": 1.0, "b": 1.0, "asleep": 1e6}, 1, deadline_s=60.0)
    assert made.time_s == 60.0
    assert (made.busy_s, made.idle_s) == (2.0, 118.0)


def test_config_may_depend_on_the_measured_time_of_a_site() -> None:
    seen: dict[str, list[int]] = {"fast": [], "usual": [], "slow": []}
    times = {"fast": 1.0, "usual": 2.0, "slow": 10.0}

    def noted(task: LocalTask) -> TrainResult:
        seen[task.site].append(task.config["epochs"])
        return plus_one(task)

    run_local(
        noted,
        dict.fromkeys(times),
        {"w": np.zeros(1)},
        rounds=2,
        config={"epochs": 5},
        settings={"config_for": [{"where": "slowness > 2", "config": {"epochs": 1}}]},
        seconds=lambda site, number: times[site],
    )
    assert seen == {"fast": [5, 5], "usual": [5, 5], "slow": [5, 1]}


def test_settings_of_a_local_run_are_checked_as_those_of_a_file() -> None:
    with pytest.raises(SettingsError, match=r"run_local: unknown key 'mod'.*mode"):
        run_local(plus_one, {"a": None}, {"w": np.zeros(1)}, settings={"mod": "async"})
    with pytest.raises(SettingsError, match="gave -1, which is no duration"):
        run_local(plus_one, {"a": None}, {"w": np.zeros(1)}, seconds=lambda site, number: -1)


def test_a_local_run_that_cannot_begin_says_what_it_waits_for() -> None:
    with pytest.raises(
        RunFailedError, match=r"it waits for 1 agent for train; 0 are here; 1 more do not meet"
    ):
        run_local(plus_one, {"a": None}, {"w": np.zeros(1)}, settings={"cohort": {"where": "gpu"}})


def test_an_update_that_is_on_its_way_while_a_model_is_made_is_not_lost() -> None:
    def moved(task: LocalTask) -> TrainResult:
        return TrainResult({"w": task.weights["w"] + task.data}, 1)

    settings = {"mode": "async", "round": {"min_updates": 2, "buffer": 2}}
    sites = {name: float(number) for number, name in enumerate("abcdefg", 1)}
    run = run_local(moved, sites, {"w": np.zeros(1)}, rounds=5, settings=settings)
    assert run.rounds == 5


def test_an_async_local_run_makes_a_model_of_half_of_its_sites() -> None:
    made: list[LocalRound] = []
    sites = dict.fromkeys("abcdefgh")
    run_local(
        plus_one,
        sites,
        {"w": np.zeros(1)},
        rounds=3,
        settings={"mode": "async"},
        seconds=lambda site, number: 20.0,
        on_round=made.append,
    )
    assert [len(one.staleness) for one in made] == [4, 4, 4]


# --- compression ---------------------------------------------------------------------------

SIZE = 1000
LARGE = {"w": np.zeros(SIZE, np.float32)}


def towards(task: LocalTask) -> TrainResult:
    """Go half of the way to what the site has."""
    return TrainResult({"w": task.weights["w"] + (task.data - task.weights["w"]) / 2}, 1)


def wanted() -> dict[str, Array]:
    chance = np.random.default_rng(1)
    return {site: chance.normal(size=SIZE).astype(np.float32) for site in "ab"}


def compressed(rounds: int = 1, mode: str = "sync", **compression: Any) -> LocalRun:
    settings = {"mode": mode, "compression": compression}
    return run_local(towards, wanted(), LARGE, rounds=rounds, settings=settings)


@pytest.mark.parametrize(
    ("options", "up"),
    [
        ({}, 4 * SIZE),
        ({"codec": "float16"}, 2 * SIZE),
        ({"codec": "bfloat16", "form": "delta"}, 2 * SIZE),
        ({"codec": "int8"}, SIZE + 4 * 2),  # a scale for each 512 values
        ({"codec": "qsgd", "levels": 7, "block": 100}, SIZE // 2 + 4 * 10),
        ({"codec": "top-k"}, 8 * 10),  # of each value a place, too
        ({"codec": "random-k", "fraction": 0.1}, 8 + 4 * 100),
    ],
)
def test_bytes_are_those_of_the_codec_and_of_each_model_once_per_site(options: Any, up: int) -> None:
    done = compressed(rounds=3, **options)
    assert done.bytes_up == 3 * 2 * up  # rounds and sites
    assert done.bytes_down == 3 * 2 * 4 * SIZE


def test_a_round_tells_the_bytes_since_the_round_before() -> None:
    made: list[LocalRound] = []
    run_local(towards, wanted(), LARGE, rounds=2, on_round=made.append)
    assert [(each.bytes_up, each.bytes_down) for each in made] == [(8 * SIZE, 8 * SIZE)] * 2


@pytest.mark.parametrize(("download", "size"), [("float16", 2 * SIZE), ("int8", SIZE + 8)])
def test_models_go_to_sites_encoded_but_for_the_first_and_sites_start_from_what_they_got(
    download: str, size: int
) -> None:
    seen = []

    def train(task: LocalTask) -> TrainResult:
        seen.append(task.weights["w"])
        return towards(task)

    done = run_local(
        train, wanted(), LARGE, rounds=2, settings={"compression": {"download": download, "form": "delta"}}
    )
    assert done.bytes_down == 2 * (4 * SIZE + size)
    plain = compressed(rounds=1).weights["w"]  # what both made of the first model, which was plain
    codec = DOWNLOADS[download]
    model = codec.layout(Layout.of(LARGE))
    data = b"".join(codec.encode(codec.signal(Held({"w": plain}, Layout.of(LARGE))), np.random.default_rng()))
    got = bytearray(4 * SIZE)
    codec.decoded(Packed(model, data), Layout.of(LARGE)).read_into(0, memoryview(got))
    assert seen[2].tobytes() == seen[3].tobytes() == got != plain.tobytes()
    # The update is relative to what was got, half of the way on; the aggregator's own model stays exact.
    halves = (sum(wanted().values()) / 2 - seen[2]) / 2
    assert np.allclose(done.weights["w"], seen[2] + halves, atol=1e-6)


@pytest.mark.parametrize("mode", ["sync", "semi-sync", "async"])
@pytest.mark.parametrize(
    "options",
    [
        {"codec": "float16"},
        {"codec": "float16", "error_feedback": True, "form": "delta"},
        {"codec": "int8", "rounding": "nearest", "download": "int8"},
        {"codec": "qsgd", "levels": 20},
        {"codec": "top-k", "fraction": 0.2},
        {"codec": "random-k", "fraction": 0.2, "error_feedback": True},
        {"codec": "random-k", "fraction": 0.5},
    ],
    ids=str,
)
def test_every_codec_gets_there_in_every_mode(mode: str, options: dict[str, Any]) -> None:
    aim = wanted()["a"]

    def train(task: LocalTask) -> TrainResult:
        return TrainResult({"w": task.weights["w"] + (aim - task.weights["w"]) / 10}, 1)

    settings = {"mode": mode, "compression": options}
    done = run_local(train, {"a": 0, "b": 0}, LARGE, rounds=80, settings=settings)
    # Without a codec (9/10)^80 = 0.0002 of the way are left; what is sent later takes longer.
    assert np.linalg.norm(done.weights["w"] - aim) < 0.1 * np.linalg.norm(aim)


def test_without_feedback_top_k_sends_the_same_places_again_and_with_it_all_of_them() -> None:
    """Each round the site adds 3 to one weight and 2 to the other; half of the values are sent."""

    def train(task: LocalTask) -> TrainResult:
        return TrainResult({"w": task.weights["w"] + np.array([3, 2], "f4")}, 1)

    def final(feedback: bool) -> list[float]:
        compression = {"codec": "top-k", "fraction": 0.5, "error_feedback": feedback}
        settings = {"compression": compression}
        initial = {"w": np.zeros(2, "f4")}
        return list(run_local(train, {"a": 0}, initial, rounds=3, settings=settings).weights["w"])

    assert final(feedback=False) == [9, 0]
    assert final(feedback=True) == [9, 4]  # (3, 0), (0, 4), (6, 0); 2 of the last are still to come


def test_what_is_left_of_an_update_that_was_refused_is_forgotten() -> None:
    """The second update counts no example: it is refused, and the third sends what the second would have."""
    examples = iter([1, 0, 1])

    def train(task: LocalTask) -> TrainResult:
        return TrainResult({"w": task.weights["w"] + np.array([3, 2], "f4")}, next(examples))

    done = run_local(
        train,
        {"a": 0},
        {"w": np.zeros(2, "f4")},
        rounds=2,
        settings={
            "compression": {"codec": "top-k", "fraction": 0.5},
            "round": {"max_failed_rounds": 2, "deadline_s": 1},
        },
        seconds=lambda site, number: 0.1,
    )
    assert list(done.weights["w"]) == [3, 4]


def test_values_that_no_codec_can_encode_end_the_run_and_name_site_and_array() -> None:
    def train(task: LocalTask) -> TrainResult:
        return TrainResult({"w": np.full(SIZE, 1e5, np.float32)}, 1)

    with pytest.raises(RunFailedError, match=r"a: array 'w' has the value 100000, too large for float16"):
        run_local(train, {"a": 0}, LARGE, settings={"compression": {"codec": "float16"}})


def test_the_same_run_encodes_the_same() -> None:
    first, again = (compressed(rounds=3, codec="int8").weights["w"] for _ in range(2))
    assert first.tobytes() == again.tobytes()
