"""What a fold of many updates takes, by every strategy."""

import sys

import pytest

from bench.fold_memory import RULES, measured
from tests.fl_main.strategies.test_robust_laws import ROBUST

MIB_MORE = 100


def test_every_robust_rule_is_measured() -> None:
    assert ROBUST.keys() <= RULES.keys()


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="the most memory of a process is told by Linux")
def test_memory_does_not_grow_with_the_updates() -> None:
    # 50 updates of 5 MB together are 250: a fold that held them would show.
    found = measured(50, 5, ["median", "krum", "bulyan", "centred_clipping"])
    assert {name for name, took in found.items() if took["grew_mib"] > MIB_MORE} == set()
