"""What the page of strategies says: of docstrings, and of convergence under label skew."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from bench.page import filled
from bench.strategies import pages
from bench.strategies.__main__ import PAGE, RECORD, sections
from bench.strategies.skew import CASES, POOLED, ROUNDS, Record, curve, read, table
from fl_main.strategies import STRATEGIES
from tests.fl_main.strategies.test_robust_laws import ROBUST

every_name = pytest.mark.parametrize("name", STRATEGIES)


def test_the_page_tells_what_docstrings_and_the_record_have() -> None:
    page = PAGE.read_text("utf-8")
    assert filled(page, sections(read(RECORD))) == page, "run: python -m bench.strategies report"


def test_every_strategy_stands_in_one_group() -> None:
    named = [name for names in pages.GROUPS.values() for name in names]
    assert sorted(named) == sorted(STRATEGIES)


@every_name
def test_every_strategy_says_its_formula_its_use_its_cost_and_its_source(name: str) -> None:
    made: Any = STRATEGIES[name]
    text = pages._paragraphs(made)
    assert "←" in text["formula"], name
    assert any(part.startswith("Use it ") for part in text["prose"].split("\n\n")), name
    assert text.get("Cost"), name
    assert (name in ROBUST) == ("Bears" in text), name
    assert any(char.isdigit() for char in pages._short(pages._source(made))), name


@every_name
def test_every_option_is_explained(name: str) -> None:
    made: Any = STRATEGIES[name]
    said = dict(pages._arguments(pages._paragraphs(made)["Args"]))
    assert said.keys() == inspect.signature(made).parameters.keys(), name


def test_an_entry_has_formula_prose_options_and_source() -> None:
    entry = pages._entry("fedadam")
    assert entry.startswith("#### `fedadam` { #fedadam }\n\n`v ← β₂ v + (1 - β₂) Δ²; x ← x + η m / (√v + τ)")
    assert "| `initial_v` | `null` | v before the first round" in entry
    assert "| `norm_bound`" not in entry
    assert "Kept between rounds: `m`, `v`." in entry
    assert entry.endswith("Adaptive Federated Optimization, ICLR 2021 (arXiv:2003.00295), Algorithm 2.")
    assert "| `bound` | required | M, the largest norm" in pages._entry("norm_bound")


def test_the_table_has_medians_over_the_seeds() -> None:
    low, high = [0.5] * (ROUNDS - 1) + [0.9], [0.9] * ROUNDS
    curves = [low, high, high]
    record = Record({"cores": "2"}, "2026-01-01 00:00", dict.fromkeys(CASES, curves), [0.95, 0.9, 0.97])
    found = table(record)
    assert "| `fedavg` | 1 | 90.0% | 90.0% |" in found
    assert f"| {POOLED} | – | 95.0% | – |" in found
    assert found.endswith("Medians over 3 seeds; measured 2026-01-01 00:00 UTC on: cores 2.")
    never = Record({}, "", {case: [low[:-1]] for case in CASES}, [0.95])
    assert "| `fedavg` | not reached | 50.0% | 50.0% |" in table(never)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = Record({"cores": "2"}, "now", {"fedavg": [[0.1, 0.2], [0.3, 0.4]], "fedadam": [[0.5]]}, [0.9])
    record.write(tmp_path / "record.json")
    assert read(tmp_path / "record.json") == record


def test_a_correction_does_better_than_none_under_label_skew() -> None:
    plain, corrected = curve(CASES["fedavg"], 0, rounds=15), curve(CASES["scaffold"], 0, rounds=15)
    assert sum(corrected[-5:]) > sum(plain[-5:])
    assert read(RECORD).accuracy["fedavg"][0][:15] == pytest.approx(plain, abs=0.01)
