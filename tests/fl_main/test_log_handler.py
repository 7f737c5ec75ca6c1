"""Lines of a log that nobody reads, over a real pipe."""

import io
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from fl_main import log_handler
from fl_main.log_handler import PatientHandler


class Pipe:
    """A log that goes into a pipe."""

    def __init__(self) -> None:
        self.reading, writing = os.pipe()
        self.stream = open(writing, "w", encoding="utf-8")  # noqa: SIM115 - closed below
        self.handler = PatientHandler(self.stream)

    def log(self, text: str) -> None:
        self.handler.handle(logging.LogRecord("x", logging.INFO, __file__, 0, text, (), None))

    def fill(self) -> None:
        """Let there be no room, as after a reader that stands still."""
        fd = self.stream.fileno()
        os.set_blocking(fd, False)
        with suppress(BlockingIOError):
            while True:
                os.write(fd, b"." * 4096)
        os.set_blocking(fd, True)

    def read(self, ending: str) -> str:
        """Read up to some words."""
        found = b""
        while not found.endswith(ending.encode()):
            part = os.read(self.reading, 1 << 16)
            assert part
            found += part
        return found.decode().lstrip(".")

    def close(self) -> None:
        for close in (self.stream.close, lambda: os.close(self.reading)):
            with suppress(OSError):
                close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_line_is_written_before_the_call_returns(pipe: Pipe) -> None:
    for number in range(3):
        pipe.log(f"línea {number}")
        assert os.read(pipe.reading, 100).decode() == f"línea {number}\n"
    assert pipe.handler._thread is None


def test_lines_that_nobody_reads_hold_up_nobody_and_come_in_order(pipe: Pipe) -> None:
    pipe.fill()
    lines = [f"{number} {'x' * (number % 5000)}" for number in range(200)]
    for line in lines:
        pipe.log(line)
    assert pipe.read(f"{lines[-1]}\n").splitlines() == lines
    pipe.log("and now at once")
    assert pipe.read("at once\n") == "and now at once\n"


def test_lines_beyond_what_may_wait_are_counted_where_they_would_be(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_handler, "WAITING_BYTES", 30)
    pipe.fill()
    for number in range(10):
        pipe.log(f"line {number} of ten")
    told = pipe.read("nobody read the log\n").splitlines()
    assert told == ["line 0 of ten", "line 1 of ten", "line 2 of ten", _dropped(7)]
    pipe.log("after that")
    assert pipe.read("that\n") == "after that\n"


def _dropped(number: int) -> str:
    return f"{number} lines were dropped here: nobody read the log"


def test_last_words_wait_for_who_reads_late(pipe: Pipe) -> None:
    pipe.fill()
    pipe.log("the last word")
    found: list[str] = []
    reader = threading.Timer(0.1, lambda: found.append(pipe.read("word\n")))
    reader.start()
    pipe.handler.flush()
    assert not pipe.handler._waiting
    reader.join()
    assert found == ["the last word\n"]


def test_last_words_do_not_wait_for_ever(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_handler, "LAST_WORDS_S", 0.1)
    pipe.fill()
    pipe.log("the last word")
    begun = time.monotonic()
    pipe.handler.flush()
    assert time.monotonic() - begun < 10


def test_reader_that_is_gone_is_no_accident(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    pipe.fill()
    pipe.log("waits")
    os.close(pipe.reading)
    thread = pipe.handler._thread
    if thread is not None:  # else it was so quick
        thread.join(20)
    assert not pipe.handler._waiting
    pipe.log("nobody hears it")
    assert pipe.handler._thread is None


def test_stream_without_a_descriptor_is_written_as_ever() -> None:
    stream = io.StringIO()
    handler = PatientHandler(stream)
    handler.handle(logging.LogRecord("x", logging.INFO, __file__, 0, "line", (), None))
    handler.flush()
    assert stream.getvalue() == "line\n"
