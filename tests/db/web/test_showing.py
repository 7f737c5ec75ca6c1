"""How values look, and where things stand in drawings: numbers worked out by hand."""

import math

import pytest

from fl_main.db.insight.curves import Curve
from fl_main.db.web import charts, drawing, showing
from fl_main.db.web.drawing import Bar, Slot, Stretch


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.123456, "0.1235"),
        (-0.5, "−0.5"),
        (12.0, "12"),
        (1234567.0, "1\u202f234\u202f567"),
        (1.5e-7, "1.500e-07"),
        (2.5e12 + 0.5, "2.500e+12"),
        (math.nan, "not a number"),
        (-math.inf, "infinite"),
    ],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert showing.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_345, "12.3 kB"), (999_600, "1.00 MB")],
)
def test_sizes(value: int | None, shown: str) -> None:
    assert showing.size(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "–"),
        (0, "0 s"),
        (0.05, "50 ms"),
        (9.94, "9.9 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (3605, "1 h"),
        (90_061, "1 d 1 h"),
    ],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert showing.duration(seconds) == shown


def test_long_and_hostile_texts_are_cut_and_escaped() -> None:
    assert showing.text("a\u202eb\n") == "a\\u202eb\\n"
    assert len(showing.text("x" * 1000)) == 200


def test_counts_agree_with_their_nouns() -> None:
    assert [showing.count(n, "agent") for n in (0, 1, 2)] == ["0 agents", "1 agent", "2 agents"]


def test_settings_are_flat() -> None:
    assert showing.flat({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}


def test_sparkline_goes_from_left_to_right_and_up() -> None:
    found = drawing.spark([0.0, None, 1.0])
    assert found is not None
    assert (found.points, found.x, found.y) == ("2.0,25.0 118.0,3.0", 118.0, 3.0)
    level = drawing.spark([1.0, 1.0])
    assert level is not None
    assert level.points == "2.0,14.0 118.0,14.0"
    assert drawing.spark([1.0, math.nan]) is None


def test_sparkline_of_many_values_is_thin_and_keeps_both_ends() -> None:
    found = drawing.spark([float(number) for number in range(1000)])
    assert found is not None
    assert len(found.points.split()) == 60
    assert found.points.startswith("2.0,25.0 ")
    assert found.points.endswith(" 118.0,3.0")


def test_bars_fill_the_height_and_each_is_seen() -> None:
    assert drawing.bars([0, 4, 1000]) == [Bar(48.0, 31.0, 47.5, 1.0), Bar(96.0, 0.0, 47.5, 32.0)]
    assert drawing.bars([]) == drawing.bars([0, 0]) == []


def test_lanes_place_what_agents_did_on_the_time_of_the_run() -> None:
    slots = [
        Slot("a", 10, 60, "good", "a"),
        Slot("b", 60, 110, "late", "b"),
        Slot("else", 10, 20, "good", ""),
    ]
    found = drawing.lanes(["a", "b"], [Stretch(1, 10, 60), Stretch(2, 60, 110)], slots)
    left, half = drawing.LEFT, drawing.AREA / 2
    assert [(mark.x, mark.width) for mark in found.marks] == [(left, half), (left + half, half)]
    assert [mark.y for mark in found.marks] == [drawing.HEAD + 4, drawing.HEAD + drawing.LANE + 4]
    assert [(band.round_id, band.x, band.width) for band in found.bands] == [
        (1, left, half),
        (2, left + half, half),
    ]
    assert [at for _, at in found.ticks] == [0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0]


def test_bands_too_narrow_for_their_numbers_have_none() -> None:
    stretches = [Stretch(number, number, number + 1) for number in range(1000)]
    found = drawing.lanes([], stretches, [])
    named = [band for band in found.bands if band.is_named]
    assert 10 < len(named) < 100


def test_curves_are_told_in_words_and_as_a_table() -> None:
    curve = Curve("evaluate", "loss", [1, 2, 3], [0.5, 0.2, 0.3], {"a": [0.6, None, 0.3]}, None)
    [chart] = charts.charts([curve])
    assert chart.words == "0.5 → 0.3 over 3 rounds; lowest 0.2 (round 2), highest 0.5 (round 1)"
    assert chart.columns == ("mean", "a")
    assert list(chart.rows) == [(3, 0.3, 0.3), (2, 0.2, None), (1, 0.5, 0.6)]
    assert chart.left_out == ""


def test_long_curves_are_tables_of_their_last_rounds() -> None:
    curve = Curve("train", "loss", list(range(1, 101)), [1.0] * 100, None, None)
    [chart] = charts.charts([curve])
    assert (chart.title, len(chart.rows), chart.left_out) == ("loss in training", 50, "the first 50 rounds")


def test_the_run_s_own_metric_comes_first() -> None:
    curves = [
        Curve("evaluate", name, [1], [1.0], None, None) for name in ("auc", "loss", "recall", "accuracy")
    ]
    assert [chart.metric for chart in charts.charts(curves, "recall")] == [
        "recall",
        "loss",
        "accuracy",
        "auc",
    ]
    assert charts.told([1], [None]) == "never a number"
    assert charts.told([4], [0.25]) == "0.25 in round 4"


def test_two_runs_share_a_table() -> None:
    first = Curve("evaluate", "loss", [1, 2], [0.5, 0.4], None, None)
    second = Curve("evaluate", "loss", [2, 3], [0.3, 0.2], None, None)
    [chart] = charts.beside([first], [second], [("evaluate", "loss"), ("train", "loss")])
    assert list(chart.rows) == [(3, None, 0.2), (2, 0.4, 0.3), (1, 0.5, None)]
