"""Arrays that a run does not train: which they are, what is said of them, and how they come back."""

import hashlib

import numpy as np
import pytest

from fl_main.errors import WeightsError
from fl_main.frozen import FrozenArrays, difference, divided, facts_of, is_trained
from fl_main.weights import Layout, pack

BASE = {"base.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "base.bias": np.zeros(2, np.float32)}
ADAPTERS = {"base.lora_A": np.ones((1, 3), np.float32), "base.lora_B": np.zeros((2, 1), np.float32)}


def test_arrays_are_trained_whose_names_a_wildcard_matches() -> None:
    trained, frozen = divided({**BASE, **ADAPTERS}, ["*.lora_?"])
    assert (list(trained), list(frozen)) == (list(ADAPTERS), list(BASE))
    assert divided(BASE, ["base.weight", "*bias"]) == (BASE, {})


def test_case_counts_on_every_system() -> None:
    assert is_trained("lora_A", ["lora_A"])
    assert not is_trained("LORA_A", ["lora_A"])


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ("", "no array matches compression.arrays ('*lora*', 'head.*'); the model has no arrays"),
        ("ab", "no array matches compression.arrays ('*lora*', 'head.*'); the model has 'a', 'b'"),
        ("abcdefg", "… the model has 'a', 'b', 'c', 'd', 'e' and 2 more"),
    ],
)
def test_wildcards_that_match_nothing_are_told_with_names_that_there_are(names: str, line: str) -> None:
    with pytest.raises(WeightsError) as caught:
        divided(dict.fromkeys(names), ["*lora*", "head.*"])
    assert str(caught.value).endswith(line.removeprefix("… "))


def test_digest_is_that_of_the_file_that_would_hold_the_arrays() -> None:
    layout = Layout.of(BASE)
    facts = facts_of(BASE)
    assert facts.digest == "sha256:" + hashlib.sha256(layout.header + pack(BASE, layout)).hexdigest()
    assert (facts.layout, facts.arrays, facts.size) == (layout.digest, 2, 4 * (6 + 2))


def test_order_of_arrays_and_of_their_memory_does_not_count() -> None:
    other = {name: np.asfortranarray(BASE[name]) for name in reversed(BASE)}
    assert facts_of(other) == facts_of(BASE)


def test_a_difference_is_told_with_what_to_do() -> None:
    facts = facts_of(BASE)
    assert difference(facts, facts_of(BASE)) == ""
    assert difference(facts, facts_of({**BASE, "base.bias": np.ones(2, np.float32)})) == (
        "its 2 frozen arrays have other values than the run's: "
        "load the same pretrained checkpoint at every site"
    )
    assert difference(facts, facts_of({"base.weight": BASE["base.weight"]})) == (
        "its 1 frozen arrays of 24 bytes have other names, shapes or types than the run's 2 of 32 bytes: "
        "give every agent the same model"
    )


def test_frozen_arrays_are_a_copy_that_nobody_changes() -> None:
    given = {name: array.copy() for name, array in BASE.items()}
    kept = FrozenArrays(given)
    given["base.bias"][:] = 7
    np.testing.assert_array_equal(kept.arrays["base.bias"], [0, 0])
    with pytest.raises(ValueError, match="read-only"):
        kept.arrays["base.bias"][0] = 1


def test_whole_and_trained_weights_come_to_the_same() -> None:
    kept = FrozenArrays(BASE)
    whole = kept.merged(ADAPTERS)
    assert whole.keys() == BASE.keys() | ADAPTERS.keys()
    assert kept.without(whole) == kept.without(ADAPTERS) == ADAPTERS


def test_array_that_was_changed_all_the_same_is_found() -> None:
    kept = FrozenArrays(BASE)
    assert kept.first_changed({**BASE, **ADAPTERS}) is None
    assert kept.first_changed(ADAPTERS) is None
    assert kept.first_changed({**BASE, "base.bias": np.ones(2)}) == "base.bias"
