"""What can go wrong between an agent and its aggregator: one line that names cause and remedy."""

import http.server
import logging
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import trustme
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from fl_main.agent import (
    Agent,
    AgentState,
    ConnectionFailedError,
    FencedError,
    RefusedError,
    StateFolderError,
)
from fl_main.aggregator.door import TAKEN_OVER
from fl_main.errors import SettingsError, StoreLockedError
from tests.system.agents import AgentThread, initial
from tests.system.conftest import StartAgent, StartDaemon, StartProcess, StartPython
from tests.system.daemons import DaemonThread, fl, run_of, until

# --- where it does not help to wait ------------------------------------------------------


def test_port_in_use_is_one_line(start_daemon: StartDaemon, start_process: StartProcess) -> None:
    daemon = start_daemon(run_of(), folder="other")
    log = start_process(port=daemon.port).ended(2)
    assert log.splitlines()[-1].startswith(f"error: cannot listen on 127.0.0.1:{daemon.port}: ")
    assert log.splitlines()[-1].endswith("choose another listen.host or listen.port (0 takes a free one)")


def test_aggregator_that_cannot_listen_leaves_nothing_behind(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_daemon(run_of())
    with (
        pytest.raises(SettingsError, match="cannot listen on"),
        DaemonThread(tmp_path / "second", [run_of()], listen={"port": daemon.port}),
    ):
        pass
    with DaemonThread(tmp_path / "second", []) as second:
        assert second.host().run.status == "running"


def test_address_that_is_not_this_machines_is_one_line(tmp_path: Path) -> None:
    done = fl("aggregator", "--host", "192.0.2.1", "--insecure", "--database", tmp_path / "m", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: cannot listen on 192.0.2.1:8765: ")


def test_daemon_that_others_could_reach_must_be_secure(tmp_path: Path) -> None:
    done = fl("aggregator", "--host", "0.0.0.0", "--database", tmp_path / "m", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: listen.host: '0.0.0.0' can be reached from other machines: "
        "set tls and join_token, or say --insecure\n",
    )


@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        (
            "mode: async\nstrategy: tests.system.momentum:Fresh",
            "mode: async: the strategy tests.system.momentum:Fresh is not valid in it: it throws away what "
            "others learned meanwhile; give mode: sync, or another strategy",
        ),
        (
            "cohort: {rule: nosuch:rule}",
            "cohort.rule: 'nosuch:rule' cannot be imported: No module named 'nosuch'",
        ),
    ],
)
def test_daemon_says_which_run_cannot_be(tmp_path: Path, settings: str, mistake: str) -> None:
    (tmp_path / "run.yaml").write_text(f"name: r\n{settings}")
    (tmp_path / "aggregator.yaml").write_text("listen: {port: 0}\nruns: [run.yaml]")
    database = tmp_path / "models"
    done = fl(
        "aggregator", "--settings", tmp_path / "aggregator.yaml", "--database", database, cwd=Path.cwd()
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"error: run r: {mistake}")


def test_insecure_daemon_listens_everywhere_if_it_is_told_to(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(run_of(), insecure=True, listen={"host": "0.0.0.0"})
    assert daemon.url.startswith("ws://0.0.0.0:")


def test_database_of_another_daemon_is_one_line(
    start_daemon: StartDaemon, start_process: StartProcess, tmp_path: Path
) -> None:
    start_daemon(run_of())
    log = start_process(run_of()).ended(1)
    assert len(log.splitlines()) == 1
    assert "models" in log
    with pytest.raises(StoreLockedError), DaemonThread(tmp_path / "models", []):
        pass


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """How an agent's program hears that it cannot connect."""

    def connect(
        url: str, run: str = "r", error: type[Exception] = ConnectionFailedError, **more: object
    ) -> str:
        options = {"initial_weights": initial(), "state_folder": tmp_path / "state", "progress": False} | more
        with Agent(url, run, "a", **options) as agent, pytest.raises(error) as raised:  # type: ignore[arg-type]
            next(agent.tasks())
        assert "\n" not in str(raised.value)
        return str(raised.value)

    return connect


def test_tls_against_a_plain_port(start_daemon: StartDaemon, start_agent: StartAgent) -> None:
    daemon = start_daemon(run_of())
    agent = start_agent(daemon.url.replace("ws:", "wss:"), 1)
    place = f"127.0.0.1:{daemon.port}"
    until(lambda: f"{place} does not answer as an aggregator does; if it is a plain port" in agent.line)


def test_tls_against_a_port_that_answers_in_plain_text(refused: Callable[..., str]) -> None:
    with serving(http.server.HTTPServer(("127.0.0.1", 0), Quiet)) as url:
        assert "does not speak TLS; use ws:// or its TLS port" in refused(url.replace("ws:", "wss:"))


def test_wrong_path(start_daemon: StartDaemon, refused: Callable[..., str]) -> None:
    daemon = start_daemon(run_of(), listen={"path": "/fl"})
    assert refused(daemon.url.replace("/fl", "/other")) == (
        f"127.0.0.1:{daemon.port}: an fl_main aggregator; its WebSocket is at /fl, not /other"
    )


def test_address_that_is_none(refused: Callable[..., str]) -> None:
    assert refused("http://localhost:1") == "'http://localhost:1' is not an address like ws://host:8765"
    assert "is not an address" in refused("localhost:8765")


@contextmanager
def serving(server: http.server.HTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass


def test_web_server_that_is_not_ours(refused: Callable[..., str]) -> None:
    with serving(http.server.HTTPServer(("127.0.0.1", 0), Quiet)) as url:
        assert "answered HTTP 200 at /: no fl_main aggregator is there; check the url" in refused(url)


@contextmanager
def websockets(*subprotocols: str) -> Iterator[tuple[str, list[object]]]:
    """A WebSocket server of somebody else's, and what it was told."""
    heard: list[object] = []

    def listen(connection: ServerConnection) -> None:
        heard.extend(connection)

    offered = [Subprotocol(name) for name in subprotocols] or None
    with serve(listen, "127.0.0.1", 0, subprotocols=offered) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}", heard
        server.shutdown()
        thread.join()


def test_websocket_server_that_is_not_ours_is_told_nothing(refused: Callable[..., str]) -> None:
    with websockets() as (url, heard):
        assert "is a WebSocket server, but no fl_main aggregator; check the url" in refused(
            url, token="secret"
        )
    assert heard == []


def test_websocket_server_of_another_version(refused: Callable[..., str]) -> None:
    with websockets("fl-main.v9") as (url, heard):
        assert "no fl_main aggregator" in refused(url)
    assert heard == []


def test_agent_of_another_version_is_told_which_one_is_spoken(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(run_of())
    with socket.create_connection(("127.0.0.1", daemon.port)) as raw:
        raw.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: fl-main.v9\r\n\r\n"
        )
        answer = raw.recv(4096)
        while data := raw.recv(4096):
            answer += data
    assert b"400 Bad Request" in answer
    assert b"that speaks fl-main.v1, not fl-main.v9" in answer


# --- TLS ---------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """Files of an own certificate authority, and of a certificate for 127.0.0.1."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = ca.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    return tmp_path / "ca.pem"


@pytest.fixture
def secure(authority: Path, start_daemon: StartDaemon) -> DaemonThread:
    folder = authority.parent
    return start_daemon(run_of(), tls={"certificate": folder / "certificate.pem", "key": folder / "key.pem"})


def test_own_certificate_authority(secure: DaemonThread, authority: Path, start_agent: StartAgent) -> None:
    assert secure.url.startswith("wss://")
    agents = [start_agent(secure.url, number, ca_file=authority) for number in (1, 2)]
    assert [agent.join().status for agent in agents] == ["finished"] * 2


def test_certificate_that_is_not_trusted(secure: DaemonThread, refused: Callable[..., str]) -> None:
    text = refused(secure.url)
    assert text.startswith(f"the certificate of 127.0.0.1:{secure.port} is not trusted (")
    assert text.endswith("); give its authority as ca_file")


def test_certificate_of_another_authority_than_the_one_given(
    secure: DaemonThread, refused: Callable[..., str], tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    text = refused(secure.url, ca_file=other)
    assert text.endswith(f"); ca_file {other} is not its authority, give that one")


@pytest.mark.parametrize(
    ("issued_for", "not_after", "reason", "remedy"),
    [
        ("far.example", None, "IP address mismatch", "the url must have a name or address that is in it"),
        ("127.0.0.1", datetime(2020, 1, 1), "certificate has expired", "have it renewed, or correct"),
    ],
)
def test_certificate_of_another_name_or_time(
    tmp_path: Path,
    start_daemon: StartDaemon,
    refused: Callable[..., str],
    issued_for: str,
    not_after: datetime | None,
    reason: str,
    remedy: str,
) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = ca.issue_cert(issued_for, not_before=datetime(2019, 1, 1), not_after=not_after)
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    daemon = start_daemon(run_of(), tls={"certificate": tmp_path / "both.pem", "key": tmp_path / "both.pem"})
    text = refused(daemon.url, ca_file=tmp_path / "ca.pem")
    assert reason in text
    assert remedy in text


def test_certificate_authority_that_is_no_file(
    secure: DaemonThread, refused: Callable[..., str], tmp_path: Path
) -> None:
    assert refused(secure.url, ca_file=tmp_path / "missing.pem").endswith("; give a PEM file")
    (tmp_path / "broken.pem").write_text("no certificate")
    assert refused(secure.url, ca_file=tmp_path / "broken.pem").endswith("; give a PEM file")


def test_plain_against_a_tls_port(
    secure: DaemonThread, start_agent: StartAgent, caplog: pytest.LogCaptureFixture
) -> None:
    agent = start_agent(secure.url.replace("wss:", "ws:"), 1)
    until(lambda: "if it is a TLS port, the url begins with wss://" in agent.line)
    assert agent.agent.state is AgentState.CONNECTING


def test_certificate_of_the_daemon_that_is_none(tmp_path: Path, start_process: StartProcess) -> None:
    (tmp_path / "c.pem").write_text("x")
    log = start_process(run_of(), tls={"certificate": "c.pem", "key": "c.pem"}).ended(2)
    assert log.splitlines()[-2:] == [
        f"error: tls.certificate: {tmp_path / 'c.pem'}: holds no PEM block 'CERTIFICATE'",
        f"error: tls.key: {tmp_path / 'c.pem'}: holds no PEM block 'PRIVATE KEY'",
    ]


# --- where waiting can help --------------------------------------------------------------


def test_agent_says_once_that_nothing_listens_and_works_when_the_daemon_comes(
    start_agent: StartAgent, start_daemon: StartDaemon, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fl_main.agent")
    url = f"ws://127.0.0.1:{unused_tcp_port}"
    agents = [start_agent(url, number) for number in (1, 2)]
    client = agents[0].agent._connected.client
    tries = 0

    async def counting() -> object:
        nonlocal tries
        tries += 1
        return await dial()

    dial, client._dial = client._dial, counting  # type: ignore[assignment]
    until(lambda: tries >= 3)
    start_daemon(run_of(), listen={"port": unused_tcp_port})
    assert [agent.join().status for agent in agents] == ["finished"] * 2
    said = [record.getMessage() for record in caplog.records if "nothing listens" in record.getMessage()]
    place = f"127.0.0.1:{unused_tcp_port}"
    assert said == [
        f"nothing listens at {place}; start the aggregator or correct the url; trying again until it works"
    ] * len(agents)


def test_unknown_host(start_agent: StartAgent) -> None:
    agent = start_agent("ws://nowhere.invalid:1", 1)
    until(lambda: "the address nowhere.invalid:1 is unknown; check the url and the network" in agent.line)
    assert agent.is_running


# --- who may come in ---------------------------------------------------------------------


def test_join_token(
    start_daemon: StartDaemon,
    start_agent: StartAgent,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEST_TOKEN", "sesame")
    daemon = start_daemon(run_of(), join_token={"env": "TEST_TOKEN"})
    assert refused(daemon.url, error=RefusedError) == "the join token is missing: the aggregator wants one"
    for token in ("wrong", "sesame!", "sésame"):
        assert "the join token is not the aggregator's" in refused(
            daemon.url, error=RefusedError, token=token
        )
    agents = [start_agent(daemon.url, number, token="sesame") for number in (1, 2)]
    assert [agent.join().status for agent in agents] == ["finished"] * 2


def test_unknown_run_lists_the_runs_and_the_command(
    start_daemon: StartDaemon, refused: Callable[..., str]
) -> None:
    daemon = start_daemon(run_of(), run_of(name="other"))
    assert refused(daemon.url, "nowhere", RefusedError) == (
        "there is no run 'nowhere' (runs: other, r); create one: fl run create FILE"
    )


def test_layout_is_checked_when_joining(
    start_daemon: StartDaemon, start_agent: StartAgent, refused: Callable[..., str]
) -> None:
    daemon = start_daemon(run_of())
    for agent in [start_agent(daemon.url, number) for number in (1, 2)]:
        agent.join()
    assert refused(daemon.url, "r", RefusedError, initial_weights={"w": np.zeros(3)}) == (
        "array 'b' of the run's model is missing (1 missing in all)"
    )
    wrong = initial() | {"w": np.zeros(3, np.float32)}
    assert "array 'w' is F32 [3]" in refused(daemon.url, "r", RefusedError, initial_weights=wrong)


def test_agents_beyond_the_limit_wait(start_daemon: StartDaemon, start_agent: StartAgent) -> None:
    daemon = start_daemon(run_of(), limits={"agents": 2})
    first = start_agent(daemon.url, 1)
    extra = start_agent(daemon.url, 3)
    until(lambda: len(daemon.host().seats) == 2)
    second = start_agent(daemon.url, 2)
    until(lambda: "2 agents are connected, the limit" in second.line)
    for agent in (first, extra, second):
        assert agent.join().status == "finished"


# --- one identity ------------------------------------------------------------------------


HOLD = """
import sys
from fl_main.agent import Agent
with Agent("ws://127.0.0.1:1", "r", "a", state_folder=sys.argv[1], progress=False):
    print("held", flush=True)
    sys.stdin.read() or __import__("time").sleep(60)
"""


def test_second_process_with_one_state_folder_is_told_to_choose_another_name(
    tmp_path: Path, start_python: StartPython
) -> None:
    start_python("first.log", "-c", HOLD, tmp_path / "state").seen("held")
    agent = Agent("ws://127.0.0.1:1", "r", "a", state_folder=tmp_path / "state", progress=False)
    with pytest.raises(StateFolderError, match="in use by another process; give this agent another name"):
        agent.start()


def test_newer_session_fences_the_older_one_which_stops(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(run_of())
    older = AgentThread(daemon.url, "a", tmp_path / "first")
    until(lambda: daemon.host().run.model_id)
    until(lambda: not any((tmp_path / "first" / "outbox").iterdir()))  # else it changes while it is copied
    shutil.copytree(tmp_path / "first", tmp_path / "copy", ignore=shutil.ignore_patterns("lock"))
    newer = AgentThread(daemon.url, "a", tmp_path / "copy")
    error = older.failed()
    assert isinstance(error, FencedError)
    assert str(error) == TAKEN_OVER
    assert newer.is_running
    until(lambda: newer.agent.state is AgentState.WAITING)
    again = AgentThread(daemon.url, "b", tmp_path / "b")
    assert newer.join().status == again.join().status == "finished"
    left = [event.details["reason"] for event in daemon.db().run("r").events("agent_left")]
    assert left[0] == "replaced by a newer connection"


def test_older_session_that_comes_back_is_refused(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(run_of())
    older = Agent(daemon.url, "r", "a", state_folder=tmp_path / "first", progress=False)
    with older:
        profile = older._connected.client._profile
        until(lambda: daemon.host().seats)
        shutil.copytree(tmp_path / "first", tmp_path / "copy", ignore=shutil.ignore_patterns("lock"))
        with Agent(daemon.url, "r", "a", state_folder=tmp_path / "copy", progress=False) as newer:
            assert newer._connected.client._profile.start_number > profile.start_number
            with pytest.raises(FencedError):
                next(older.tasks())
            client = older._connected.client
            client._failure = None  # as if it had not heard of it
            older._connected._outside.network.start(client.run()).result(20)
            assert isinstance(client._failure, FencedError)
            until(lambda: newer.state is AgentState.WAITING)


def test_connection_of_the_same_process_replaces_its_dead_one_quietly(
    start_daemon: StartDaemon, stack: ExitStack
) -> None:
    from tests.system.peers import Peer

    daemon = start_daemon(run_of())
    first = stack.enter_context(Peer(daemon.url)).join("a", instance_id="1")
    second = stack.enter_context(Peer(daemon.url)).join("a", instance_id="1")
    assert first.closed() == (1008, "replaced by a newer connection")
    assert second.welcome.run == "r"
