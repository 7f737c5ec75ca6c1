"""Functions of the user's own, found by `package.module:function`."""

from collections import OrderedDict
from pathlib import Path

import pytest

from fl_main.errors import SettingsError
from fl_main.plugins import imported


def error_of(path: str) -> str:
    with pytest.raises(SettingsError) as caught:
        imported(path, "cohort.rule")
    return str(caught.value)


def test_a_function_and_a_class_are_found() -> None:
    assert imported("os.path:join", "cohort.rule")("a", "b") == str(Path("a", "b"))
    assert imported("collections:OrderedDict", "strategy") is OrderedDict


def test_a_function_of_a_file_beside_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rule_beside.py").write_text("def first(candidates, seed): return candidates[:1]")
    monkeypatch.syspath_prepend(tmp_path)
    assert imported("rule_beside:first", "cohort.rule")([3, 4], 0) == [3]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("nosuch.module:f", "cannot be imported: No module named 'nosuch'"),
        ("os.path:nosuch", "cannot be imported: module 'posixpath' has no attribute 'nosuch'"),
        ("os:", "cannot be imported: module 'os' has no attribute ''"),
        (":f", "cannot be imported: Empty module name"),
        (
            ".relative:f",
            "cannot be imported: the 'package' argument is required to perform a relative import",
        ),
        ("os:name", "is not a class or function"),
    ],
)
def test_what_is_not_there_is_one_line_with_its_key(path: str, expected: str) -> None:
    assert error_of(path).startswith(f"cohort.rule: {path!r} {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 / 0", "division by zero"),
        ("import nosuch", "No module named 'nosuch'"),
        ("def f(:", "invalid syntax (broken_"),
        ("raise RuntimeError('one\\n two')", "one two"),
        ("raise RuntimeError", "RuntimeError"),
    ],
)
def test_a_module_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    name = f"broken_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    said = error_of(f"{name}:f")
    assert said.startswith(f"cohort.rule: '{name}:f' cannot be imported: {expected}")
    assert "\n" not in said
