"""Proxies between an agent and its daemon: the network on a bad day, and a hospital's way out."""

import base64
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from urllib.parse import urlsplit


class Proxy:
    """A TCP proxy that counts what passes, cuts connections, lets them die silently, or is slow.

    Args:
        url: Of the daemon.
        cut_down: Bytes to the agent after which its first connection is cut, one way and the other.
        cut_up: Bytes from the agent, likewise.
        silently: Whether such a connection dies without a word to either end.
        for_long: Whether new connections are turned away from such a cut on.
        bytes_per_s: What passes at most, each way; may be changed at any time if it was given.

    Attributes:
        url: For the agent.
        down: Bytes that went to the agent, over all connections; `up`: that came from it.
        cuts: Connections that were cut.
        accepted: Connections that were opened.
        is_closed: Whether new connections are turned away.
    """

    def __init__(
        self,
        url: str,
        *,
        cut_down: int | None = None,
        cut_up: int | None = None,
        silently: bool = False,
        for_long: bool = False,
        bytes_per_s: int | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._target = (str(parts.hostname), int(parts.port or 0))
        self._listener = socket.create_server(("127.0.0.1", 0))
        if bytes_per_s:  # what waits in our own buffers would be fast
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.url = f"ws://127.0.0.1:{self._listener.getsockname()[1]}"
        self.down = self.up = self.cuts = self.accepted = 0
        self.is_closed = False
        self._limits = {"down": cut_down, "up": cut_up}
        self._silently, self._for_long = silently, for_long
        self.bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._silent: set[socket.socket] = set()
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

    def silence(self) -> None:
        """Let every connection die without a word to either end, as when an address changes."""
        with self._lock:
            self._silent.update(self._open)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                agent, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(agent,), daemon=True).start()

    def _serve(self, agent: socket.socket) -> None:
        try:
            daemon = None if self.is_closed else self._reach(agent)
        except OSError:
            daemon = None
        if daemon is None:
            agent.close()
            return
        with self._lock:
            self.accepted += 1
            self._open += [agent, daemon]
        down = threading.Thread(target=self._pump, args=(daemon, agent, "down"), daemon=True)
        down.start()
        self._pump(agent, daemon, "up")
        down.join()
        if agent not in self._silent:  # closed, not only shut down: who still sends hears of it at once
            agent.close()
            daemon.close()

    def _reach(self, agent: socket.socket) -> socket.socket | None:
        """Return a connection to the daemon, or None if the agent shall have none."""
        daemon = socket.socket()
        if self.bytes_per_s:
            daemon.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            daemon.connect(self._target)
        except OSError:
            daemon.close()
            raise
        return daemon

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(min(1 << 14, (self.bytes_per_s or 1 << 20) // 50)):
                if source in self._silent:
                    return
                sink.sendall(data)
                setattr(self, way, getattr(self, way) + len(data))
                if self.bytes_per_s:
                    time.sleep(len(data) / self.bytes_per_s)
                limit = self._limits[way]
                if limit is not None and getattr(self, way) >= limit:
                    self._limits[way] = None
                    self.is_closed = self._for_long
                    self.cuts += 1
                    if self._silently:
                        self.silence()
                    break
        if source in self._silent:
            return
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class ConnectProxy(Proxy):
    """An HTTP proxy that opens tunnels by CONNECT to names which only it knows.

    Args:
        names: URL of the daemon by its name outside.
        login: `user:password` that it wants.
        answer: What it answers instead of opening a tunnel.
        tls: What it speaks itself.

    Attributes:
        url: For the environment.
        asked: Request lines so far.
        hangs: Whether it takes requests and answers nothing.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        *,
        login: str = "",
        answer: bytes = b"",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._names = names
        self._login = base64.b64encode(login.encode()).decode()
        self._answer = answer
        self._tls = tls
        self.asked: list[str] = []
        self.hangs = False
        super().__init__("")
        self.url = self.url.replace("ws:", "https:" if tls else "http:")

    def _serve(self, agent: socket.socket) -> None:
        if self._tls:
            try:
                agent = self._tls.wrap_socket(agent, server_side=True)
            except OSError:
                agent.close()
                return
        super()._serve(agent)

    def _reach(self, agent: socket.socket) -> socket.socket | None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := agent.recv(4096)):
                return None
            head += data
        request, *headers = head.decode().splitlines()
        self.asked.append(request)
        if self.hangs:
            while agent.recv(4096):
                pass
            return None
        daemon = None
        answer = self._answer or self._refusal(request, headers)
        if not answer:
            place = urlsplit(self._names[request.split()[1]])
            daemon = socket.create_connection((str(place.hostname), int(place.port or 0)))
        agent.sendall(answer or b"HTTP/1.1 200 Connection established\r\n\r\n")
        return daemon

    def _refusal(self, request: str, headers: list[str]) -> bytes:
        method, place, _ = request.split()
        if method != "CONNECT":
            return response("405 Method Not Allowed")
        if self._login and f"Proxy-Authorization: Basic {self._login}" not in headers:
            return response("407 Proxy Authentication Required", 'Proxy-Authenticate: Basic realm="proxy"')
        if place not in self._names:
            return response("502 Bad Gateway")
        return b""


def response(status: str, *headers: str) -> bytes:
    """An HTTP answer without a body."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "Content-Length: 0", "", ""]).encode()
