"""What every robust rule must keep: it moves and grows with the models, and bears whom it says it bears."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.quarantine import with_outliers
from fl_main.strategies import STRATEGIES, Strategy, compose, make_strategy
from fl_main.weights import Array, Role
from tests.fl_main.strategies.arrays import Result, folded
from tests.fl_main.strategies.test_laws import OPTIONS

ROBUST: dict[str, dict[str, Any]] = {
    "median": {},
    "trimmed_mean": {"beta": 0.3},
    "geometric_median": {},
    "krum": {"f": 2},
    "multi_krum": {"f": 2},
    "bulyan": {"f": 1},
    "centred_clipping": {"tau": 3.0},
    "fltrust": {"root": "agent-000"},
}
every_rule = pytest.mark.parametrize("name", ROBUST)
seeds = st.integers(0, 2**32 - 1)


def made(name: str) -> Strategy:
    return STRATEGIES[name](**ROBUST[name])


def points(seed: int, count: int) -> list[Array]:
    return list(np.random.default_rng(seed).normal(size=(count, 6)))


def fold_of(name: str, places: list[Array], base: Array) -> Result:
    return folded(made(name), [{"w": place} for place in places], base={"w": base})


def result_of(name: str, places: list[Array], base: Array) -> Array:
    return fold_of(name, places, base).arrays["w"]


def test_every_rule_that_bears_someone_is_held_to_these_laws() -> None:
    bearing = {name for name in STRATEGIES if make_strategy(name, OPTIONS[name][-1]).bears(100)}
    assert bearing == ROBUST.keys()


def test_no_agent_has_two_votes_in_a_rule_that_bears_so_many_agents() -> None:
    for name in ROBUST:
        assert made(name).one_each or made(name).modes == ("sync",), name
    assert compose([{"norm_bound": {"bound": 1.0}}, "median", "fedadam"]).one_each
    assert not compose("fedbuff").one_each


@every_rule
@given(seed=seeds)
def test_it_moves_with_the_models(name: str, seed: int) -> None:
    *places, base, move = points(seed, 14)
    moved = result_of(name, [place + move for place in places], base + move)
    np.testing.assert_allclose(moved, result_of(name, places, base) + move, rtol=0, atol=1e-7)


@every_rule
@given(seed=seeds, factor=st.sampled_from([-3.0, 0.01, 40.0]))
def test_it_grows_with_the_models(name: str, seed: int, factor: float) -> None:
    if name == "centred_clipping":
        pytest.skip("tau is a length: it does not grow with them")
    *places, base = points(seed, 13)
    grown = result_of(name, [factor * place for place in places], factor * base)
    np.testing.assert_allclose(grown, factor * result_of(name, places, base), rtol=0, atol=1e-5 * abs(factor))


@every_rule
@given(seed=seeds, far=st.sampled_from([10.0, 1e3, 1e6]), spread=st.booleans())
def test_it_bears_as_many_as_it_says_whatever_they_send(
    name: str, seed: int, far: float, spread: bool
) -> None:
    # The other updates are at most √6 x 4 from their middle, and so is what comes of them.
    count, noise = 13, np.random.default_rng(seed + 1)
    faulty = min(made(name).bears(count), 6)
    assert faulty >= 1
    places = [np.clip(place, -4, 4) for place in points(seed, count)]
    direction = noise.normal(size=6)
    for i in range(faulty):
        places[-1 - i] = far * (noise.normal(size=6) if spread else direction)
    found = result_of(name, places, np.zeros(6))
    assert np.linalg.norm(found) <= 6 * 6**0.5 * 4


@every_rule
@pytest.mark.parametrize(("dtype", "far"), [("f4", 3e38), ("f8", 1e200), ("f8", 1.7e308)])
def test_values_that_no_square_can_be_taken_of_are_borne_and_told(name: str, dtype: str, far: float) -> None:
    places = [place.astype(dtype) for place in [*points(3, 12), np.full(6, far)]]
    found = fold_of(name, places, np.zeros(6, dtype))
    assert np.linalg.norm(found.arrays["w"]) < 10
    outliers = [note["outlier"] for note in with_outliers(found.folded.notes, 3.0)]
    assert outliers == [0.0] * 12 + [1.0]


@every_rule
@pytest.mark.parametrize(("dtype", "tiny"), [("f4", 1e-44), ("f8", 1e-160), ("f8", 5e-324)])
def test_an_update_of_next_to_nothing_is_borne(name: str, dtype: str, tiny: float) -> None:
    places = [np.abs(place).astype(dtype) for place in [*points(3, 12), np.full(6, tiny)]]
    found = fold_of(name, places, np.zeros(6, dtype))
    assert np.linalg.norm(found.arrays["w"]) < 10


@pytest.mark.parametrize(
    "strategy",
    [[{name: options}] for name, options in ROBUST.items()]
    + [["multi_krum", "fedavg"], ["krum", "fedadam"], ["multi_krum", "median"]],
    ids=str,
)
def test_an_update_that_is_wrong_in_its_other_arrays_only_is_borne(strategy: list[Any]) -> None:
    # Its parameters are the middle of all, so that every rule keeps them.
    count = 13
    places = points(7, count)
    places[-1] = np.mean(places[:-1], axis=0)
    counts = [100] * (count - 1) + [10**12]
    models: list[dict[str, Array]] = [
        {"w": place, "var": np.array([1.0]), "table": np.array([7, 8]), "mask": np.array([True])}
        for place in places
    ]
    models[-1] |= {"var": np.array([1e30]), "table": np.array([10**9, -(10**9)]), "mask": np.array([False])}
    found = folded(compose(strategy), models, counts, base=models[0], roles={"var": Role.BUFFER}).arrays
    assert {name: found[name].tolist() for name in ("var", "table", "mask")} == {
        "var": [1.0],
        "table": [7, 8],
        "mask": [True],
    }


@every_rule
@given(seed=seeds)
def test_notes_say_what_it_measures(name: str, seed: int) -> None:
    *places, base = points(seed, 13)
    notes = fold_of(name, places, base).folded.notes
    assert len(notes) == 12
    for note in notes:
        assert set(note) == set(made(name).measures)
        assert note["distance"] >= 0
        assert -1 <= note["cosine"] <= 1


@every_rule
def test_notes_tell_who_is_far_off(name: str) -> None:
    places = [*points(5, 12), np.full(6, 1e4)]
    notes = fold_of(name, places, np.zeros(6)).folded.notes
    assert max(range(13), key=lambda i: notes[i]["distance"]) == 12
    if "kept" in made(name).measures and name != "fltrust":
        assert notes[12]["kept"] == 0.0


@every_rule
def test_it_refuses_fewer_than_it_needs(name: str) -> None:
    assert made(name).why_least
    assert made(name).bears(made(name).min_updates) >= 1
