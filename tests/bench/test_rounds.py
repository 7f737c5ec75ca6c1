"""The benchmark's machinery runs; how fast is no matter of tests."""

import asyncio
import sys
import time
from pathlib import Path

import pytest

from bench.rounds import floor, line, ours
from bench.rounds.compare import Size
from bench.rounds.measure import measure
from bench.rounds.plan import Part
from bench.rounds.processes import Processes
from bench.rounds.record import Run, begun
from bench.rounds.work import LINE_BYTES_PER_S, LINE_DELAY_S, CannotRunError, Network, Work

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc"),
    pytest.mark.timeout(120),  # a loaded machine
]


def work(folder: Path, network: Network = "loopback") -> Work:
    return Work(megabytes=0.01, agents=2, rounds=2, network=network, folder=folder)


@pytest.mark.parametrize("network", ["loopback", "tls", "line"])
def test_our_rounds_are_timed_over_every_network(network: Network, tmp_path: Path) -> None:
    found = ours.run(work(tmp_path, network), keep=False)
    assert found.round_s > (2 * LINE_DELAY_S if network == "line" else 0)
    assert found.peak_mib > 10
    assert found.cpu_s_per_mb is not None


def test_rounds_of_agents_in_one_process_are_timed(tmp_path: Path) -> None:
    assert ours.run(work(tmp_path), keep=False, crowd=True).round_s > 0


def test_floor_is_timed(tmp_path: Path) -> None:
    found = floor.run(work(tmp_path), keep=False)
    assert found.round_s > 0
    assert found.peak_mib > 10


def test_program_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    fails = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    with Processes(tmp_path) as processes, pytest.raises(CannotRunError) as refused:
        processes.finish("peer", fails)
    assert str(refused.value) == "peer ended with 1: no such model"


def test_children_of_a_contestant_end_with_it(tmp_path: Path) -> None:
    child = "import subprocess, sys; p = subprocess.Popen(['sleep', '100'], start_new_session=True); "
    with Processes(tmp_path) as processes:
        processes.start(
            "server", [sys.executable, "-c", child + "print(f'child={p.pid}', flush=True); p.wait()"]
        )
        number = int(processes.wait_for_line("server", "child="))
        assert Path(f"/proc/{number}").exists()
    status = Path(f"/proc/{number}/status")
    assert not status.exists() or "zombie" in status.read_text()


def test_who_cannot_run_is_recorded_and_not_asked_again() -> None:
    record, told = begun(), list[Run]()
    measure(record, [Part(("simple-fl",), (Size(1, 2),))], repeats=3, rounds=1, told=told.append)
    assert [run.problem for run in record.runs] == [
        "it is not on PyPI, and peers are installed from nowhere else"
    ]
    assert told == record.runs


def test_what_is_in_a_record_is_not_measured_again() -> None:
    record, told = begun(), list[Run]()
    parts = [Part(("simple-fl", "floor"), (Size(1, 2),), "line")]
    measure(record, parts, repeats=1, rounds=1, told=told.append)
    measure(record, parts, repeats=2, rounds=1, told=told.append)
    assert [run.contestant for run in record.runs] == ["simple-fl", "floor"]
    assert told == record.runs


def test_network_that_a_contestant_does_not_have_is_recorded() -> None:
    record = begun()
    measure(record, [Part(("floor",), (Size(1, 2),), "line")], repeats=1, rounds=1, told=lambda run: None)
    assert [run.problem for run in record.runs] == ["it is not made for the network 'line' here"]


def test_line_carries_every_byte_late_and_not_faster_than_it_may(tmp_path: Path) -> None:
    sent = bytes(range(256)) * 4096

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()
        await writer.wait_closed()

    async def through(processes: Processes) -> tuple[bytes, float]:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as far:
            [port, _] = line.ports_to(processes, work(tmp_path, "line"), far.sockets[0].getsockname()[1])
            began = time.monotonic()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            writer.write_eof()
            found = await reader.read()
            seconds = time.monotonic() - began
            writer.close()
            await writer.wait_closed()
        return found, seconds

    with Processes(tmp_path) as processes:
        found, seconds = asyncio.run(through(processes))
    assert found == sent
    assert seconds >= 0.99 * 2 * (len(sent) / LINE_BYTES_PER_S + LINE_DELAY_S)  # there, and back
