"""The lines of the chaos break as they are told to."""

import socket
from collections.abc import Iterator

import pytest

from tests.chaos.proxy import Line, Network

PATIENCE_S = 10.0

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def network() -> Iterator[Network]:
    carrier = Network()
    yield carrier
    carrier.close()


@pytest.fixture
def daemon() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def line(network: Network, daemon: socket.socket) -> Line:
    return Line(network, daemon.getsockname()[1])


@pytest.fixture
def ends(line: Line, daemon: socket.socket) -> Iterator[Ends]:
    """The site's end of a connection, and the daemon's."""
    with socket.create_connection(("127.0.0.1", line.port)) as site, daemon.accept()[0] as other:
        for end in (site, other):
            end.settimeout(PATIENCE_S)
        yield site, other


def _is_over(end: socket.socket) -> bool:
    try:
        return end.recv(1) == b""
    except ConnectionResetError:
        return True


def test_bytes_pass_both_ways(line: Line, ends: Ends) -> None:
    site, daemon = ends
    site.sendall(b"up")
    daemon.sendall(b"down")
    assert (daemon.recv(10), site.recv(10)) == (b"up", b"down")
    assert (line.up, line.down) == (2, 4)


def test_line_is_cut_at_a_byte(line: Line, ends: Ends) -> None:
    site, daemon = ends
    line.cut_after(3)
    site.sendall(b"update")
    assert daemon.recv(10) == b"upd"
    assert _is_over(daemon)
    assert _is_over(site)


def test_stalled_line_loses_nothing(line: Line, ends: Ends) -> None:
    site, daemon = ends
    line.stall(True)
    site.sendall(b"late")
    line.stall(False)
    assert daemon.recv(10) == b"late"


def test_silent_line_tells_neither_end(line: Line, ends: Ends) -> None:
    site, daemon = ends
    site.sendall(b"heard")
    assert daemon.recv(10) == b"heard"
    line.silence()
    site.sendall(b"lost")
    site.close()
    daemon.settimeout(0.2)
    with pytest.raises(TimeoutError):
        daemon.recv(10)


def test_closed_line_turns_sites_away(line: Line) -> None:
    line.is_closed = True
    with socket.create_connection(("127.0.0.1", line.port), timeout=PATIENCE_S) as site:
        assert _is_over(site)
