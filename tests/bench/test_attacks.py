"""What attacks do to training, and how the page tells it."""

import re
from pathlib import Path

import pytest

from bench.attacks.cases import ATTACKERS, ATTACKS, NONE, ROOT, RULES, SITES
from bench.attacks.record import Record, Training, read
from bench.attacks.report import borne, sections, task_table
from bench.attacks.tasks import TASKS, attacked, cancer
from bench.page import filled
from fl_main.strategies import STRATEGIES, compose, make_strategy
from tests.fl_main.strategies.test_robust_laws import ROBUST

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_robust_strategy_is_attacked() -> None:
    named = {word for rule in RULES for word in re.findall(r"[a-z_]+", rule)} & STRATEGIES.keys()
    assert named == {"fedavg", "norm_bound", *ROBUST}
    assert make_strategy("fltrust", {"root": ROOT}).bears(SITES) == SITES - 1


def test_the_page_tells_what_the_record_has() -> None:
    page = (DOCS / "robustness.md").read_text("utf-8")
    record = read(DOCS / "records" / "attacks.json")
    assert filled(page, sections(record)) == page, "run: python -m bench.attacks report"


def made() -> Record:
    """Two seeds: 90 % and 80 % without attackers, less by as many per cent as there are attackers."""
    record = Record({"cores": "2"}, "2026-01-01 00:00")
    for task in TASKS:
        for rule in RULES:
            for seed, calm in enumerate((0.9, 0.8)):
                record.trainings.append(Training(task, rule, NONE, 0, seed, calm))
                record.trainings += [
                    Training(task, rule, attack, attackers, seed, calm - attackers / 100)
                    for attack in ATTACKS
                    for attackers in ATTACKERS
                ]
    return record


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    made().write(tmp_path / "record.json")
    assert read(tmp_path / "record.json") == made()


def test_tables_tell_medians() -> None:
    lines = task_table(made(), "digits").splitlines()
    cells = " | ".join(["83 · 81 · 79"] * len(ATTACKS))  # the median of 90 and 80 is 85
    assert f"| `fedavg` | – | 85% | {cells} |" in lines
    assert borne("krum") == f"6 of {SITES}"
    assert all(compose(strategy).min_updates <= SITES for strategy in RULES.values())


@pytest.mark.parametrize("rule", ["median", "multi_krum"])
def test_a_mean_is_ruined_where_a_robust_rule_is_not(rule: str) -> None:
    dealt = cancer(0)
    calm = attacked(dealt, RULES[rule], None, 0, 0)
    assert calm > 0.9
    assert attacked(dealt, RULES[rule], ATTACKS["scaling"], 4, 0) > calm - 0.05
    assert attacked(dealt, RULES["fedavg"], ATTACKS["scaling"], 4, 0) < 0.7
