"""The settings of `compression` that are measured, by what the page calls them."""

from typing import Any

CASES: dict[str, dict[str, Any]] = {
    "none": {},
    "float16": {"codec": "float16"},
    "bfloat16": {"codec": "bfloat16"},
    "int8": {"codec": "int8"},
    "int8, nearest": {"codec": "int8", "rounding": "nearest"},
    "qsgd": {"codec": "qsgd"},
    "qsgd, 7 levels, blocks of 64": {"codec": "qsgd", "levels": 7, "block": 64},
    "top-k, 10 %": {"codec": "top-k", "fraction": 0.1},
    "top-k, 1 %": {"codec": "top-k"},
    "top-k, 1 %, no feedback": {"codec": "top-k", "error_feedback": False},
    "random-k, 10 %": {"codec": "random-k", "fraction": 0.1},
    "random-k, 10 %, feedback": {"codec": "random-k", "fraction": 0.1, "error_feedback": True},
    "float16 both ways": {"codec": "float16", "download": "float16"},
    "int8 both ways": {"codec": "int8", "download": "int8"},
}
PLAIN = "none"
POOLED = "pooled"  # all examples in one place: nothing travels
