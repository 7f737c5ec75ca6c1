"""Log lines on their way to stderr: whoever does not read it holds up nobody."""

import logging
import os
import select
import threading
import time
from contextlib import suppress
from typing import TextIO

WAITING_BYTES = 1 << 20  # of lines that nobody has read yet; what comes then is dropped
LAST_WORDS_S = 2.0  # that the end of the process waits for who reads


class PatientHandler(logging.StreamHandler[TextIO]):
    """Writes each line at once, as its base does, unless there is no room for it.

    A pipe has none while its reader (a pager, a supervisor) stands still, nor has a stopped terminal; a
    plain write would wait there, and an event loop with it. Such lines wait here, and a thread that
    lives as long as there are some writes them in order. Where too many wait, further ones are dropped
    until all are written, and counted in a line in their place.

    Args:
        stream: Where to; of one without a descriptor, or on Windows, it does no more than its base.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._fd = _descriptor(stream)
        self._waiting = bytearray()
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or let it wait for room."""
        if self._fd is None:
            super().emit(record)
            return
        try:
            if self._dropped or len(self._waiting) > WAITING_BYTES:
                self._dropped += 1
            else:
                self._waiting += self._line(record)
                self._write(self._fd)
                self._begin_to_wait(self._fd)
        except Exception:  # noqa: BLE001 - as its base does
            self.handleError(record)

    def flush(self) -> None:
        """Wait a little until all is written: the last words of a process are the ones that matter."""
        if self._fd is None:
            super().flush()
            return
        ends_at = time.monotonic() + LAST_WORDS_S
        while self._waiting and (left_s := ends_at - time.monotonic()) > 0:
            self._await_room(self._fd, left_s)

    def _line(self, record: logging.LogRecord) -> bytes:
        encoding = self.stream.encoding or "utf-8"
        return (self.format(record) + self.terminator).encode(encoding, "backslashreplace")

    def _write(self, fd: int) -> None:
        """Write what there is room for; whoever calls has the lock.

        Raises:
            OSError: If nobody will ever read it; it is dropped.
        """
        try:
            while self._waiting and _has_room(fd, 0.0):
                del self._waiting[: os.write(fd, self._waiting[: select.PIPE_BUF])]
        except OSError:
            self._waiting.clear()
            raise

    def _begin_to_wait(self, fd: int) -> None:
        if self._waiting and self._thread is None:
            self._thread = threading.Thread(target=self._wait, args=(fd,), name="fl-log", daemon=True)
            self._thread.start()

    def _wait(self, fd: int) -> None:
        """Write what waits, until nothing does."""
        while self._thread is not None:
            self._await_room(fd, None)

    def _await_room(self, fd: int, patience_s: float | None) -> None:
        """Wait for room, and fill it."""
        with suppress(OSError):  # the write says it again
            _has_room(fd, patience_s)
        with self.lock:  # type: ignore[union-attr] # every handler has one
            try:
                self._write(fd)
                if self._dropped and not self._waiting:
                    self._waiting += self._line(_dropped(self._dropped))
                    self._dropped = 0
                    self._write(fd)
            except OSError:
                self._dropped = 0
            if not self._waiting:
                self._thread = None


def takes_more(stream: TextIO) -> bool:
    """Whether a stream has room for more, as far as that can be asked: a stopped terminal has none."""
    fd = _descriptor(stream)
    return fd is None or _has_room(fd, 0.0)


def _descriptor(stream: TextIO) -> int | None:
    """Return the descriptor of a stream; None if it has none, or none whose room can be asked for."""
    try:
        return stream.fileno() if hasattr(select, "poll") else None
    except (OSError, AttributeError):  # a buffer in memory; there is no stderr
        return None


def _has_room(fd: int, patience_s: float | None) -> bool:
    """Whether a write of `select.PIPE_BUF` bytes would not wait, at the latest after some seconds."""
    return bool(select.select([], [fd], [], patience_s)[1])


def _dropped(number: int) -> logging.LogRecord:
    text = "%d lines were dropped here: nobody read the log"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (number,), None)
