"""The service manager's end of a socket: what systemd would hear."""

import socket
from collections.abc import Callable
from contextlib import suppress

from tests.system.daemons import PATIENCE_S


class Manager:
    """The service manager's end.

    Attributes:
        environ: What a service finds in its environment.
    """

    def __init__(self, address: str, **environ: str) -> None:
        self.environ = {"NOTIFY_SOCKET": address.replace("\0", "@"), **environ}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)

    def close(self) -> None:
        self._socket.close()

    def hear(self, wanted: Callable[[str], bool], patience_s: float = PATIENCE_S) -> str:
        """Return the next datagram that is wanted; others are passed over."""
        self._socket.settimeout(patience_s)
        while not wanted(datagram := self._socket.recv(4096).decode()):
            pass
        return datagram

    def drain(self) -> list[str]:
        """Return what has come so far."""
        self._socket.setblocking(False)
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(4096).decode())
        return found


def is_pulse(datagram: str) -> bool:
    return datagram == "WATCHDOG=1"


def status(words: str) -> Callable[[str], bool]:
    return lambda datagram: datagram.startswith("STATUS=") and words in datagram
