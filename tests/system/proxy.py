"""A TCP proxy that counts what passes and cuts connections: the network on a bad day."""

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes on to a daemon.

    Args:
        url: Of the daemon.
        cut_down: Bytes to the agent after which its first connection is cut, one way and the other.
        cut_up: Bytes from the agent, likewise.

    Attributes:
        url: For the agent.
        down: Bytes that went to the agent, over all connections; `up`: that came from it.
        cuts: Connections that were cut.
        is_closed: Whether new connections are turned away.
    """

    def __init__(self, url: str, *, cut_down: int | None = None, cut_up: int | None = None) -> None:
        parts = urlsplit(url)
        self._target = (str(parts.hostname), int(parts.port or 0))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self._listener.getsockname()[1]}"
        self.down = self.up = self.cuts = 0
        self.is_closed = False
        self._limits = {"down": cut_down, "up": cut_up}
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.is_closed = True
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut every connection now."""
        with self._lock:
            found, self._open = self._open, []
        for end in found:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                agent, _ = self._listener.accept()
                if self.is_closed:
                    agent.close()
                    continue
                try:
                    daemon = socket.create_connection(self._target)
                except OSError:
                    agent.close()
                    continue
                with self._lock:
                    self._open += [agent, daemon]
                for source, sink, way in ((daemon, agent, "down"), (agent, daemon, "up")):
                    threading.Thread(target=self._pump, args=(source, sink, way), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 14):
                sink.sendall(data)
                setattr(self, way, getattr(self, way) + len(data))
                limit = self._limits[way]
                if limit is not None and getattr(self, way) >= limit:
                    self._limits[way] = None
                    self.cuts += 1
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
