"""What the benchmark computes from single runs, and how its tables say it."""

from pathlib import Path

import pytest

from bench.page import filled
from bench.rounds.compare import Size, cpu_s_per_mb, peak_mib, ratio, round_s
from bench.rounds.plan import FULL, SHORT, rounds_of
from bench.rounds.record import Idle, Record, Run, read
from bench.rounds.report import (
    codecs_table,
    floor_table,
    growth_table,
    mib_text,
    peers_table,
    rounds_table,
    seconds_text,
    sections,
)

ROOT = Path(__file__).resolve().parents[2]
SMALL = Size(1, 2)


def runs_of(
    contestant: str, seconds: list[float], size: Size = SMALL, network: str = "loopback"
) -> list[Run]:
    """One run for each turn."""
    return [
        Run(contestant, *size, rounds=3, network=network, repeat=turn, round_s=s, peak_mib=50.0 + turn)
        for turn, s in enumerate(seconds)
    ]


FLOOR = runs_of("floor", [1.0, 10.0, 2.0])
OURS = runs_of("ours", [2.0, 15.0, 2.0])


def test_ratio_is_the_median_of_the_ratios_within_a_turn() -> None:
    assert ratio(FLOOR + OURS, "ours", "floor", SMALL, "loopback") == 1.5  # of 2, 1.5 and 1
    assert round_s(OURS, "ours", SMALL, "loopback") == 2.0  # while the medians' ratio were 1


def test_turn_in_which_one_of_both_is_missing_is_left_out() -> None:
    assert ratio(FLOOR[:1] + OURS, "ours", "floor", SMALL, "loopback") == 2.0
    assert ratio(OURS, "ours", "floor", SMALL, "loopback") is None


def test_runs_of_another_size_or_network_are_not_mixed_in() -> None:
    other = runs_of("ours", [100.0], Size(1, 10)) + runs_of("ours", [100.0], network="tls")
    assert round_s(OURS + other, "ours", SMALL, "loopback") == 2.0


def test_memory_is_the_most_of_all_turns() -> None:
    assert peak_mib(OURS, "ours", SMALL, "loopback") == 52.0


def test_processor_time_is_told_where_it_is_known() -> None:
    known = Run("ours", *SMALL, rounds=3, network="loopback", repeat=0, cpu_s_per_mb=0.004)
    assert cpu_s_per_mb([*OURS, known], "ours", SMALL, "loopback") == 0.004
    assert cpu_s_per_mb(OURS, "ours", SMALL, "loopback") is None


def test_turns_are_told_by_network_and_where_a_size_had_others() -> None:
    runs = [*OURS, *runs_of("ours", [1.0] * 3, Size(1, 10)), *runs_of("ours", [1.0], Size(500, 2))]
    runs += runs_of("ours", [1.0], network="tls")
    told = sections(Record({}, "2026-01-01 00:00", runs=runs))["machine"]
    assert "- turns: loopback 3 (500 × 2: 1); tls 1\n" in told


def test_run_with_a_problem_has_no_figures_and_is_named() -> None:
    broken = Run("flare", *SMALL, rounds=3, network="loopback", repeat=0, problem="no `wheel` in /home/me/x")
    assert round_s([broken], "flare", SMALL, "loopback") is None
    record = Record({}, "2026-01-01 00:00", runs=[*OURS, broken])
    assert sections(record)["problems"] == "- NVIDIA FLARE, nowhere: `no 'wheel' in …/x`"
    record.runs += runs_of("flare", [1.0], Size(1, 10))
    assert sections(record)["problems"] == "- NVIDIA FLARE, at 1 × 2: `no 'wheel' in …/x`"
    assert "| NVIDIA FLARE |\n" in rounds_table(record.runs, "loopback")
    assert "| 1 × 2 | 2.00 s, 52 MiB | – |" in rounds_table(record.runs, "loopback")


def test_floor_is_the_one_with_the_same_retention() -> None:
    kept = runs_of("floor-keep", [4.0]) + runs_of("ours-keep", [5.0])
    assert floor_table(FLOOR + OURS + kept).splitlines() == [
        "| MB × agents | fl_main | fl_main, all kept |",
        "|--:|--:|--:|",
        "| 1 × 2 | 1.50× | 1.25× |",
    ]


def test_peers_are_set_against_ours_with_the_last_round_kept_and_with_all() -> None:
    runs = runs_of("ours", [2.0]) + runs_of("ours-keep", [4.0]) + runs_of("flower-grpc", [6.0])
    assert peers_table(runs, "loopback").splitlines()[2] == "| 1 × 2 | 3.0× (1.5×) |"
    assert peers_table(runs, "tls") == "Not measured."


def test_codecs_are_set_against_ours_without_and_against_peers() -> None:
    slow = [("ours", [8.0]), ("ours-int8", [2.0]), ("flower-grpc", [16.0])]
    runs = [run for name, seconds in slow for run in runs_of(name, seconds, network="line")]
    assert codecs_table(runs, "line").splitlines() == [
        "| MB × agents | fl_main / fl_main, int8 | Flower start_server / fl_main, int8 |",
        "|--:|--:|--:|",
        "| 1 × 2 | 4.0× | 8.0× |",
    ]
    assert codecs_table(runs_of("ours", [8.0], network="line"), "line") == "Not measured."


def test_growth_tells_what_an_agent_costs_beside_the_fewest() -> None:
    runs = runs_of("ours-crowd", [0.05], Size(0.1, 10)) + runs_of("ours-crowd", [1.0], Size(0.1, 100))
    assert growth_table(runs).splitlines()[2:] == [
        "| 10 | 50 ms | 5.00 ms | 1.00× | 50 MiB |",
        "| 100 | 1.00 s | 10.00 ms | 2.00× | 50 MiB |",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.00766, "7.66 ms"), (0.0999, "99.9 ms"), (0.35, "0.35 s"), (12.34, "12.3 s")]
)
def test_seconds_are_told_with_three_digits(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_memory_is_told_in_the_unit_that_reads_best() -> None:
    assert (mib_text(85.8), mib_text(8499.2)) == ("86 MiB", "8.3 GiB")


def test_page_keeps_what_stands_outside_the_markers() -> None:
    page = "before\n<!-- bench: small -->\nold\n<!-- /bench -->\nafter\n"
    once = filled(page, {"small": "new"})
    assert once == "before\n<!-- bench: small -->\n\nnew\n\n<!-- /bench -->\nafter\n"
    assert filled(once, {"small": "new"}) == once


def test_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for 'growth'"):
        filled("nothing", {"growth": "table"})


def test_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = Record({"cores": "2"}, "2026-01-01 00:00", {"ours": {"numpy": "2"}}, OURS, Idle(1000, 32.0, 0))
    record.write(tmp_path / "record.json")
    assert read(tmp_path / "record.json") == record


def test_page_is_written_from_the_record_as_it_stands() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    record = read(ROOT / "docs" / "records" / "benchmarks.json")
    assert filled(page, sections(record)) == page, "run: python -m bench.rounds report"


def test_run_has_neither_too_few_rounds_nor_too_many() -> None:
    sizes = {size for part in (*FULL, *SHORT) for size in part.sizes}
    assert {rounds_of(size) for size in sizes} == {3, 4, 5, 10, 20, 50}
