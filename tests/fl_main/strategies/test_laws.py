"""The laws of `fl_main.strategies.base`, for every strategy of the table."""

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.strategies import STRATEGIES, Contribution, FedAsync, Strategy
from fl_main.strategies.fold import state_layout
from fl_main.weights import Array, Layout, Role
from tests.fl_main.strategies.arrays import Memory, Result, folded, memory

# Options under which each strategy is held to the laws.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "fedavg": [{}, {"weighting": "uniform"}, {"cap": 5}],
    "fedbuff": [{}, {"eta": 0.3}],
    "fedasync": [{}, {"alpha": 1}],
    "median": [{}],
    "trimmed_mean": [{}, {"beta": 0.34}],
    "geometric_median": [{}, {"weighting": "uniform", "iterations": 50}],
    "krum": [{"f": 0}, {}],
    "multi_krum": [{"f": 0, "m": 2}, {"weighting": "examples"}],
    "bulyan": [{"f": 0}, {}],
    "centred_clipping": [{}, {"tau": 0.5, "iterations": 3}],
    "fltrust": [{"root": "agent-000"}],
    "fedprox": [{}, {"weighting": "uniform"}],
    "scaffold": [{}, {"eta": 0.5}],
    "feddyn": [{}, {"alpha": 1.0}],
    "fedcurv": [{}],
}
IN_TURN = (FedAsync,)  # take one update after the other
CASES = [(STRATEGIES[name], options) for name in STRATEGIES for options in OPTIONS[name]]
IDS = [f"{name} {options}" for name in STRATEGIES for options in OPTIONS[name]]

every_strategy = pytest.mark.parametrize(("factory", "options"), CASES, ids=IDS)
Factory = Callable[..., Strategy]

DTYPES = [np.dtype(name) for name in ("f8", "f4", "f2", "i8", "u1", "?")] + [np.dtype(ml_dtypes.bfloat16)]
ROLES = {"mean": Role.BUFFER}


def model_of(seed: int, dtypes: Sequence[np.dtype[Any]] = DTYPES) -> dict[str, Array]:
    """Return a model with every kind of array."""
    noise = np.random.default_rng(seed)
    arrays = {
        str(dtype): (10 * noise.normal(size=(3, 4))).astype(dtype) for dtype in dtypes if dtype.kind != "u"
    }
    arrays["u1"] = noise.integers(0, 255, 5, np.uint8)
    arrays["mean"] = noise.normal(size=7).astype("f4")
    arrays["none"] = np.zeros(0, "f4")
    return arrays


def extras(strategy: Strategy, layout: Layout, seed: int) -> dict[str, Memory]:
    kept = state_layout(layout)
    noise = np.random.default_rng(seed)
    values = {spec.name: noise.normal(size=spec.shape).astype(spec.dtype.stored) for spec in kept.arrays}
    return {channel: memory(values) for channel in strategy.up}


def result_of(
    factory: Factory,
    options: dict[str, Any],
    seeds: list[int],
    counts: list[int],
    block_bytes: int = 1 << 20,
    *,
    as_deltas: bool = False,
    dtypes: Sequence[np.dtype[Any]] = DTYPES,
) -> Result:
    if "root" in options:
        options = {"root": f"agent-{min(seeds):03}"}
    strategy = factory(**options)
    models = [model_of(seed, dtypes) for seed in seeds]
    layout = Layout.of(models[0], ROLES)
    metrics = dict.fromkeys(strategy.needs, 1.0)
    facts = [
        Contribution(f"agent-{seed:03}", count, 3, seed % 4, metrics, discount=2.0 ** -(seed % 4))
        for seed, count in zip(seeds, counts, strict=True)
    ]
    return folded(
        strategy,
        models,
        base=model_of(1000, dtypes),
        roles=ROLES,
        facts=facts,
        channels=[extras(strategy, layout, seed) for seed in seeds],
        origins=[model_of(1000 + seed % 4, dtypes) for seed in seeds],
        as_deltas=as_deltas,
        block_bytes=block_bytes,
    )


def bits(
    factory: Factory, options: dict[str, Any], seeds: list[int], counts: list[int], block_bytes: int = 1 << 20
) -> list[bytes]:
    result = result_of(factory, options, seeds, counts, block_bytes)
    return [bytes(kept.data) for kept in (result.model, *result.state.values())]


def cohorts(least: int = 1) -> st.SearchStrategy[list[tuple[int, int]]]:
    pairs = st.tuples(st.integers(0, 99), st.integers(1, 1000))
    return st.lists(pairs, min_size=least, max_size=least + 3, unique_by=lambda pair: pair[0])


def enough(factory: Factory, options: dict[str, Any]) -> int:
    return factory(**options).min_updates


@every_strategy
def test_the_order_of_updates_does_not_matter(factory: Factory, options: dict[str, Any]) -> None:
    if factory in IN_TURN:
        pytest.skip("a law of sums: this one keeps to the order of the agents")

    @given(cohorts(enough(factory, options)), st.randoms(use_true_random=False))
    def law(cohort: list[tuple[int, int]], rng: Any) -> None:
        arrived = list(cohort)
        rng.shuffle(arrived)
        models = []
        for order in (cohort, arrived):  # not sorted here: equal but for the last bits
            seeds, counts = [seed for seed, _ in order], [count for _, count in order]
            models.append(np.frombuffer(bits(factory, options, seeds, counts)[0][:96], "f8"))
        np.testing.assert_allclose(models[0], models[1], rtol=1e-9, atol=1e-9)

    law()


@every_strategy
def test_a_model_that_no_update_changes_stays_exactly_as_it_is(
    factory: Factory, options: dict[str, Any]
) -> None:
    if factory(**options).state or factory(**options).up:
        pytest.skip("this one takes a step of its own")

    @given(
        st.integers(0, 99),
        st.lists(
            st.integers(1, 10**6), min_size=enough(factory, options), max_size=enough(factory, options) + 3
        ),
    )
    def law(seed: int, counts: list[int]) -> None:
        model = model_of(seed)
        result = folded(factory(**options), [model] * len(counts), counts, roles=ROLES)
        assert result.model.data == memory(model, ROLES).data

    law()


@every_strategy
def test_a_mean_of_equal_models_is_exactly_that_model(factory: Factory, options: dict[str, Any]) -> None:
    strategy = factory(**options)
    if strategy.state or strategy.up or strategy.wants == "deltas" or factory in IN_TURN:
        pytest.skip("a law of means: this one takes a step from the model that is there")

    @given(
        st.integers(0, 99),
        st.lists(
            st.integers(1, 10**6), min_size=enough(factory, options), max_size=enough(factory, options) + 3
        ),
    )
    def law(seed: int, counts: list[int]) -> None:
        model, base = model_of(seed), model_of(1000)
        result = folded(factory(**options), [model] * len(counts), counts, base=base, roles=ROLES)
        assert result.model.data == memory(model, ROLES).data

    law()


@every_strategy
def test_the_form_on_the_wire_does_not_matter(factory: Factory, options: dict[str, Any]) -> None:
    is_measured = factory(**options).passes > 0  # how one array is rounded tells in all others
    dtypes = [dtype for dtype in DTYPES if dtype.itemsize > 2 or not is_measured]
    coarsest = max(float(ml_dtypes.finfo(dtype).eps) for dtype in dtypes if dtype.kind in "fV")

    @given(cohorts(enough(factory, options)))
    def law(cohort: list[tuple[int, int]]) -> None:
        seeds, counts = [seed for seed, _ in cohort], [count for _, count in cohort]
        full = result_of(factory, options, seeds, counts, dtypes=dtypes).arrays
        deltas = result_of(factory, options, seeds, counts, as_deltas=True, dtypes=dtypes).arrays
        for name, values in full.items():
            own = float(ml_dtypes.finfo(values.dtype).eps) if values.dtype.kind in "fV" else 0
            rounding = 100 * (max(own, coarsest) if own and is_measured else own)
            np.testing.assert_allclose(deltas[name].astype("f8"), values.astype("f8"), rtol=0, atol=rounding)

    law()


@every_strategy
def test_examples_scale(factory: Factory, options: dict[str, Any]) -> None:
    if options.get("cap"):
        pytest.skip("a cap is a number of examples: it does not scale")

    @given(cohorts(enough(factory, options)), st.integers(2, 1000))
    def law(cohort: list[tuple[int, int]], factor: int) -> None:
        seeds, counts = [seed for seed, _ in cohort], [count for _, count in cohort]
        scaled = [count * factor for count in counts]
        assert bits(factory, options, seeds, scaled) == bits(factory, options, seeds, counts)

    law()


@every_strategy
def test_blocks_do_not_matter(factory: Factory, options: dict[str, Any]) -> None:
    @given(cohorts(enough(factory, options)), st.integers(1, 100))
    def law(cohort: list[tuple[int, int]], block_bytes: int) -> None:
        seeds, counts = [seed for seed, _ in cohort], [count for _, count in cohort]
        whole = bits(factory, options, seeds, counts)
        assert bits(factory, options, seeds, counts, block_bytes) == whole

    law()


@every_strategy
def test_a_second_fold_of_the_same_updates_gives_the_same_bits(
    factory: Factory, options: dict[str, Any]
) -> None:
    cohort = [3, 1, 2, 5, 4, 8, 7, 6, 9, 12, 11, 10][: max(5, enough(factory, options))]
    assert bits(factory, options, cohort, cohort) == bits(factory, options, cohort, cohort)
