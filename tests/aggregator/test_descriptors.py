"""How many connections the system has room for."""

import resource

import pytest

from fl_main.aggregator.descriptors import RESERVED_FILES, room_for


def test_soft_limit_is_raised_to_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [1024, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda which, wanted: limits.__setitem__(0, wanted[0]))
    assert room_for(2000) == 2000
    assert limits == [4096, 4096]


def test_too_few_descriptors_are_one_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 1024))
    monkeypatch.setattr(resource, "setrlimit", lambda which, wanted: None)
    assert room_for(11_000) == 1024 - RESERVED_FILES
    assert "the system allows 1024 open files, too few" in caplog.text
    assert len(caplog.records) == 1
