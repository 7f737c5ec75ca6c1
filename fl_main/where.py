"""Conditions on what is known of an agent, as settings state them: `region == "eu" and gpu`.

The grammar is Python's, of which names, numbers, texts, lists, comparisons, `and`, `or`, `not` and `in`
are taken, and nothing else: it is read, never run as Python. As in the settings around them, true,
false and null may be written small. A name that an agent does not have is None; a comparison of what
cannot be compared is false.
"""

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

Facts = Mapping[str, Any]
Condition = Callable[[Facts], Any]

MAX_LENGTH = 1000
MAX_DEPTH = 50  # of what stands within each other, so that its evaluation cannot run out of stack

_LONGEST_TEXT = 60  # characters of a condition that an error repeats
_WORDS = {"true": True, "false": False, "null": None}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, group: item in group,
    ast.NotIn: lambda item, group: item not in group,
}


@lru_cache(maxsize=256)
def condition(text: str) -> Condition:
    """Return what tells whether the facts of an agent meet a condition; an empty one is always met.

    Raises:
        ValueError: If it is not a condition; the text says what is wrong with it.
    """
    if not text.strip():
        return lambda facts: True
    if len(text) > MAX_LENGTH:
        raise ValueError(f"a condition of {len(text)} characters; {MAX_LENGTH} are the most")
    return _compiled(_parsed(text))


def _parsed(text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a text such as "\d" is an error in a Python to come
            tree = ast.parse(text.strip(), mode="eval").body
        if _depth(tree) <= MAX_DEPTH:
            return tree
        reason = "too deep"
    except SyntaxError as error:
        reason = error.msg
    except (RecursionError, MemoryError):
        reason = "too deep"
    except ValueError:  # a zero character, half a character
        reason = "a character that cannot be"
    raise ValueError(f'{_shown(text)} is not a condition ({reason}); e.g. region == "eu" and gpu')


def _depth(node: ast.AST) -> int:
    return 1 + max(map(_depth, ast.iter_child_nodes(node)), default=0)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…")


def _compiled(node: ast.expr) -> Condition:
    if isinstance(node, ast.BoolOp):
        parts = [_compiled(value) for value in node.values]
        every = all if isinstance(node.op, ast.And) else any
        return lambda facts: every(part(facts) for part in parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _compiled(node.operand)
        return lambda facts: not inner(facts)
    if isinstance(node, ast.Compare):
        return _comparison(node)
    return _value(node)


def _comparison(node: ast.Compare) -> Condition:
    values = [_compiled(value) for value in (node.left, *node.comparators)]
    tests = []
    for kind in node.ops:
        if (test := _COMPARISONS.get(type(kind))) is None:
            raise ValueError(
                f"'is' in {_shown(ast.unparse(node))} is not part of a condition: write == or !="
            )
        tests.append(test)

    def holds(facts: Facts) -> bool:
        found = [value(facts) for value in values]
        try:
            return all(test(left, right) for test, left, right in zip(tests, found, found[1:], strict=False))
        except TypeError:  # e.g. a text beside a number
            return False

    return holds


def _value(node: ast.expr) -> Condition:
    if isinstance(node, ast.Name):
        name = node.id
        return lambda facts: facts.get(name, _WORDS.get(name))
    if isinstance(node, ast.List | ast.Tuple):
        parts = [_compiled(part) for part in node.elts]
        return lambda facts: [part(facts) for part in parts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = ast.Constant(-_number(node.operand))
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
        constant = node.value
        return lambda facts: constant
    raise ValueError(
        f"{_shown(ast.unparse(node))} is not part of a condition, which is made of names of attributes, "
        "numbers, texts in quotes, lists, comparisons, and, or, not, in"
    )


def _number(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # type: ignore[return-value] # looked at just before
    raise ValueError("a minus stands before a number in a condition, and before nothing else")
