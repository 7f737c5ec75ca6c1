"""Waiting for a file to change, so that a fault hits at that moment and not a poll later.

Linux only: inotify(7), by its system calls.
"""

import ctypes
import os
import select
import struct
import time
from enum import IntFlag
from pathlib import Path
from types import TracebackType

_HEADER = struct.Struct("iIII")  # struct inotify_event: wd, mask, cookie, length of the name
_READ_BYTES = 1 << 16


class Change(IntFlag):
    """What can happen in a folder."""

    MODIFIED = 0x2
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATED = 0x100
    DELETED = 0x200


class Watch:
    """Changes in a folder from now on.

    Raises:
        OSError: If the folder is not there.
    """

    def __init__(self, folder: Path, changes: Change) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if libc.inotify_add_watch(self._fd, os.fsencode(folder), int(changes)) < 0:
            os.close(self._fd)
            raise OSError(ctypes.get_errno(), f"cannot watch {folder}")

    def wait(self, pattern: str, timeout_s: float) -> bool:
        """Wait until a file whose name ends with a pattern changes; whether one did."""
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            if select.select([self._fd], [], [], left)[0] and self._matches(pattern):
                return True
        return False

    def _matches(self, pattern: str) -> bool:
        data, place = os.read(self._fd, _READ_BYTES), 0
        while place < len(data):
            *_, length = _HEADER.unpack_from(data, place)
            start = place + _HEADER.size
            if data[start : start + length].rstrip(b"\0").decode().endswith(pattern):
                return True
            place = start + length
        return False

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
