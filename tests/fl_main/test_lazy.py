"""Tests of public names that are loaded when they are first used."""

from importlib import import_module

import pytest

from fl_main.lazy import loader

PACKAGES = ("fl_main", "fl_main.agent", "fl_main.aggregator", "fl_main.db")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_of_a_package_is_there(package: str) -> None:
    module = import_module(package)

    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_a_name_is_found_in_its_home() -> None:
    load = loader("fl_main", {"Layout": ".weights"})

    assert load("Layout") is import_module("fl_main.weights").Layout


def test_a_name_that_there_is_not_is_said_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'fl_main' has no attribute 'nothing'"):
        loader("fl_main", {})("nothing")
