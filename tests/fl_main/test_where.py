"""Conditions on agents: what they mean, and what is refused."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fl_main.where import MAX_DEPTH, MAX_LENGTH, condition

SITE = {"region": "eu", "gpu": True, "beds": 250, "load": 0.5, "name": "st-mary", "usual_s": None}


def holds(text: str) -> bool:
    return bool(condition(text)(SITE))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "gpu",
        'region == "eu"',
        "region == 'eu' and gpu",
        'region == "us" or beds > 100',
        "not (region == 'us')",
        'region in ["eu", "uk"]',
        'region in ("eu", "uk")',
        'region not in ["us"]',
        '"mary" in name',
        "beds in [10, 250]",
        "100 < beds <= 250",
        "load < 1 and load > -1.5",
        "beds == 250.0",
        "gpu == True and gpu == true",
        "beds in [load, 250]",
        "(beds > 100) == gpu",
        "(beds > 1 and load) == true",
        "beds > 1 and (load > 0.9 or not region == 'us')",
        "  gpu  # of any make",
    ],
)
def test_condition_that_is_met(text: str) -> None:
    assert holds(text)


@pytest.mark.parametrize(
    "text",
    [
        "not gpu",
        'region == "EU"',
        'region == "eu" and not gpu',
        "300 > beds > 250",
        "100 < beds < 200",
        "region in []",
        "beds and 0",
        "gpu == false",
        "'eu' == gpu",
    ],
)
def test_condition_that_is_not_met(text: str) -> None:
    assert not holds(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("memory", False),
        ("not memory", True),
        ("memory > 8", False),
        ("memory <= 8", False),
        ("not memory > 8", True),
        ("memory == None", True),
        ("memory == null", True),
        ("memory != 8", True),
        ("memory in [8, 16]", False),
        ("memory not in [8, 16]", True),
        ("8 in memory", False),
        ("usual_s > 5", False),
    ],
)
def test_attribute_that_an_agent_does_not_have_is_none(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    "text",
    ["region > 5", "5 < region", "beds < 'many'", "1 in beds", "1 not in beds", "1 in 'one'", "[1] < 2"],
)
def test_what_cannot_be_compared_is_not_met(text: str) -> None:
    assert not holds(text)


@pytest.mark.parametrize(
    "text",
    [
        "open('/etc/passwd')",
        "name.upper",
        "name.upper()",
        "__import__('os').system('true')",
        "lambda: 1",
        "beds + 1 > 2",
        "beds * 2",
        "2 ** 9",
        "'a' * 9",
        "~beds",
        "+beds",
        "name[0]",
        "name[1:]",
        "{'a'}",
        "{'a': 1}",
        "{**a}",
        "[*a]",
        "[a for a in name]",
        "(a for a in name)",
        "(a := 1)",
        "f'{name}'",
        "f''",
        "b'eu'",
        "1j",
        "...",
        "gpu if beds else load",
        "await a",
        "(yield)",
        "region == f(1)",
        "not f(1)",
        "beds in [f(1)]",
        "gpu or f(1)",
    ],
)
def test_what_is_no_part_of_a_condition_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not part of a condition|is not a condition \("):
        condition(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "f(1) == 2 and gpu",
            "'f(1)' is not part of a condition, which is made of names of attributes, numbers, "
            "texts in quotes, lists, comparisons, and, or, not, in",
        ),
        ("gpu is True", "'is' in 'gpu is True' is not part of a condition: write == or !="),
        ("gpu is not None", "'is' in 'gpu is not None' is not part of a condition: write == or !="),
        ("beds > -load", "a minus stands before a number in a condition, and before nothing else"),
        ("- -1", "a minus stands before a number in a condition, and before nothing else"),
        ("gpu and", "'gpu and' is not a condition (invalid syntax); e.g. region == \"eu\" and gpu"),
        ("a" * 1001, "a condition of 1001 characters; 1000 are the most"),
        (
            r"name == '\d'",
            r"""is not a condition (invalid escape sequence '\d'); e.g. region == "eu" and gpu""",
        ),
        ("gpu and\nload", "is not a condition (invalid syntax); e.g."),
        ("a = 1", "is not a condition (invalid syntax"),
        ("a\0b", "is not a condition ("),
        ("'\ud800'", "is not a condition (a character that cannot be)"),
    ],
)
def test_error_says_what_is_wrong(text: str, expected: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its whole text is compared
        condition(text)
    assert expected in str(caught.value)


def nested(depth: int) -> list[str]:
    return ["not " * depth + "gpu", "[" * depth + "]" * depth, "[0==" * depth + "gpu" + "]" * depth]


@pytest.mark.parametrize(
    "text",
    [
        *nested(MAX_DEPTH),
        *nested(198),
        "(" * 499 + ")" * 499,
        "~" * 999 + "1",
        "a" + ".a" * 499,
        "a" + "()" * 499,
        "a" + "[0]" * 333,
        "lambda:" * 142 + "0",
    ],
)
def test_what_is_too_deep_is_refused(text: str) -> None:
    assert len(text) <= MAX_LENGTH
    with pytest.raises(ValueError, match=r"\(too deep\)|\(too many nested parentheses\)"):
        condition(text)


def test_nesting_of_a_person_is_not_too_deep() -> None:
    assert holds("(((((gpu) and beds) and not not load) or (beds in [[[[[250]]]]])) and (region))")


attributes = st.dictionaries(
    st.sampled_from(["a", "b", "gpu", "region"]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
)
PIECES = (
    "a b gpu region 1 -1 2.5 1e999 'eu' \"\" [ ] ( ) , null None and or not in == != < <= > >= "
    "is if else lambda : . * ="
)
pieces = st.sampled_from(PIECES.split())


def as_text(parts: list[str]) -> str:
    return " ".join(parts)


@settings(max_examples=500)
@given(st.text(max_size=50) | st.lists(pieces, max_size=15).map(as_text), attributes)
@example("(" * 1000, {})
@example("a" * 1000, {})
@example("0" * 1000, {})
@example("9" * 900 + " > a", {"a": 1.5})
@example("1if a else b", {})
@example("\ufeffa", {})
@example("a\tand\fb\r", {})
def test_any_text_ends_in_a_condition_or_a_value_error(text: str, facts: dict[str, Any]) -> None:
    try:
        found = condition(text)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - an error is one of two good ends
    else:
        assert bool(found(facts)) in (True, False)


def terms() -> st.SearchStrategy[str]:
    leaves = st.sampled_from(
        ["a", "b", "gpu", "region", "1", "-2.5", "'eu'", "null", "true", "[]", "('eu', 1)"]
    )
    signs = st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"])
    return st.recursive(
        leaves,
        lambda inner: (
            st.builds("({} {} {})".format, inner, signs, inner)
            | st.builds("not {}".format, inner).map("({})".format)
            | st.builds("[{}, {}]".format, inner, inner)
        ),
        max_leaves=12,
    )


@given(terms(), attributes)
def test_any_condition_says_yes_or_no_of_any_agent(text: str, facts: dict[str, Any]) -> None:
    assert bool(condition(text)(facts)) in (True, False)
