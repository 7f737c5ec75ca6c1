"""Behind a real nginx: paths, TLS, idle time-outs, and an nginx that goes away for a while."""

import re
import ssl
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from fl_main.agent import Agent, AgentState, ConnectionFailedError
from fl_main.messages import CHUNK_BYTES
from tests.system.agents import AgentThread, doubled, first_weights, site
from tests.system.conftest import StartAgent, StartDaemon
from tests.system.daemons import ROOT, DaemonThread, run_of, until
from tests.system.nginx import NGINX, Nginx
from tests.system.proxy import Proxy
from tests.system.test_restart import Gate

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light")

StartNginx = Callable[[str], Nginx]

UPGRADE = """
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection upgrade;
"""


def location(path: str, target: str, more: str = UPGRADE) -> str:
    """A server that passes a path on."""
    return f"server {{ listen 127.0.0.1:PORT; location {path} {{ proxy_pass {target}; {more} }} }}"


@pytest.fixture
def start_nginx(tmp_path: Path, stack: ExitStack) -> StartNginx:
    return lambda servers: stack.enter_context(Nginx(tmp_path / "nginx", servers))


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[str], str]:
    """How an agent's program hears that it cannot connect, and need not try again."""

    def connect(url: str) -> str:
        with (
            Agent(url, "r", "a", state_folder=tmp_path / "state", progress=False) as agent,
            pytest.raises(ConnectionFailedError) as raised,
        ):
            next(agent.tasks())
        return str(raised.value)

    return connect


def http(daemon: DaemonThread) -> str:
    return daemon.url.replace("ws:", "http:")


def finished(start_agent: StartAgent, url: str, **options: object) -> None:
    agents = [start_agent(url, number, **options) for number in (1, 2)]
    assert [agent.join().status for agent in agents] == ["finished"] * 2


# --- paths and TLS -----------------------------------------------------------------------


@pytest.fixture
def as_delivered(start_daemon: StartDaemon, start_nginx: StartNginx, tmp_path: Path) -> tuple[str, Path]:
    """The URL behind `setting/nginx.conf`, its lines changed as a reader would, and its authority."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "nginx.pem")
    daemon = start_daemon(run_of())
    text = (ROOT / "setting" / "nginx.conf").read_text("utf-8")
    for pattern, ours in (
        (r"listen 443 ssl;", "listen 127.0.0.1:PORT ssl;"),
        (r"server_name \S+;", "server_name 127.0.0.1;"),
        (r"ssl_certificate +\S+;", f"ssl_certificate {tmp_path}/nginx.pem;"),
        (r"ssl_certificate_key +\S+;", f"ssl_certificate_key {tmp_path}/nginx.pem;"),
        (r"127\.0\.0\.1:8765/", f"127.0.0.1:{daemon.port}/"),
    ):
        text, count = re.subn(pattern, ours, text)
        assert count == 1, pattern
    return f"wss://{start_nginx(text).place}/fl/", tmp_path / "ca.pem"


def test_configuration_as_it_is_delivered(as_delivered: tuple[str, Path], start_agent: StartAgent) -> None:
    url, ca_file = as_delivered
    finished(start_agent, url, ca_file=ca_file)
    health = url.replace("wss:", "https:") + "healthz"
    with urllib.request.urlopen(health, context=ssl.create_default_context(cafile=ca_file)) as answer:
        assert answer.read() == b"ok\n"


def test_documentation_shows_what_is_delivered() -> None:
    page = (ROOT / "docs" / "networks.md").read_text("utf-8")
    shown = page.partition("```nginx\n")[2].partition("```")[0]
    delivered = (ROOT / "setting" / "nginx.conf").read_text("utf-8")
    directives = [re.sub(r" *#.*", "", line).strip() for line in delivered.splitlines()]
    assert shown.splitlines()
    assert [line for line in shown.splitlines() if line.strip() not in directives] == []


def test_path_that_the_daemon_knows(
    start_daemon: StartDaemon, start_nginx: StartNginx, start_agent: StartAgent
) -> None:
    daemon = start_daemon(run_of(), listen={"path": "/hospital/fl"})
    nginx = start_nginx(location("/hospital/", f"http://127.0.0.1:{daemon.port}"))
    finished(start_agent, f"ws://{nginx.place}/hospital/fl")


def test_path_that_leads_elsewhere(
    start_daemon: StartDaemon, start_nginx: StartNginx, refused: Callable[[str], str]
) -> None:
    nginx = start_nginx(location("/fl/", f"{http(start_daemon(run_of()))}/"))
    text = refused(f"ws://{nginx.place}/other")
    assert text.startswith(f"{nginx.place} answered HTTP 40")  # 403 where nginx has no files to show
    assert text.endswith(" at /other: no fl_main aggregator is there; check the url")


def test_missing_slash_is_named(
    start_daemon: StartDaemon, start_nginx: StartNginx, refused: Callable[[str], str]
) -> None:
    nginx = start_nginx(location("/fl/", f"{http(start_daemon(run_of()))}/"))
    assert refused(f"ws://{nginx.place}/fl") == (
        f"{nginx.place} redirects to http://{nginx.place}/fl/; give ws://{nginx.place}/fl/ as url"
    )


def test_redirect_to_tls_is_named(start_nginx: StartNginx, refused: Callable[[str], str]) -> None:
    nginx = start_nginx("server { listen 127.0.0.1:PORT; return 301 https://fl.example$request_uri; }")
    assert refused(f"ws://{nginx.place}/fl/") == (
        f"{nginx.place} redirects to https://fl.example/fl/; give wss://fl.example/fl/ as url"
    )


@pytest.mark.parametrize("lines", ["", "proxy_http_version 1.1;"], ids=["none", "version"])
def test_nginx_that_passes_on_no_websockets(
    lines: str, start_daemon: StartDaemon, start_nginx: StartNginx, refused: Callable[[str], str]
) -> None:
    nginx = start_nginx(location("/", http(start_daemon(run_of())), lines))
    assert refused(f"ws://{nginx.place}").startswith(f"{nginx.place} passes on no WebSockets (HTTP ")


# --- idle time-outs ----------------------------------------------------------------------


def test_idle_timeout_shorter_than_the_ping_interval_costs_new_connections_and_nothing_else(
    start_daemon: StartDaemon, start_nginx: StartNginx, start_agent: StartAgent
) -> None:
    daemon = start_daemon(run_of(end={"rounds": 2}, round={"min_agents": 1, "min_updates": 1}))
    nginx = start_nginx(location("/", http(daemon), UPGRADE + "proxy_read_timeout 500ms;"))
    gate = Gate(1, 1)
    with Proxy(f"ws://{nginx.place}") as proxy:
        agent = start_agent(proxy.url, 1, gate)
        assert gate.reached.wait(20)
        until(lambda: proxy.accepted >= 3)
        gate.open.set()
        assert agent.join().status == "finished"
    assert [round_id for round_id, _ in agent.trained] == [1, 2]


def test_idle_timeout_longer_than_the_ping_interval_costs_nothing(
    start_daemon: StartDaemon, start_nginx: StartNginx, start_agent: StartAgent
) -> None:
    daemon = start_daemon(
        run_of(end={"rounds": 1}, round={"min_agents": 1, "min_updates": 1}), limits={"ping_interval_s": 0.2}
    )
    nginx = start_nginx(location("/", http(daemon), UPGRADE + "proxy_read_timeout 3s;"))
    gate = Gate(1, 1)
    with Proxy(f"ws://{nginx.place}") as proxy:
        agent = start_agent(proxy.url, 1, gate)
        assert gate.reached.wait(20)
        end = time.monotonic() + 4.0  # nginx has clocks of its own
        until(lambda: time.monotonic() > end)
        gate.open.set()
        assert agent.join().status == "finished"
        assert proxy.accepted == 1


# --- an nginx, or a daemon behind it, that goes away ---------------------------------------

VALUES = 1 << 18
BYTES = 8 * VALUES


@pytest.fixture
def large(start_daemon: StartDaemon, tmp_path: Path) -> DaemonThread:
    """A run of one round of a model of 2 MB, for one agent."""
    return start_daemon(
        run_of(
            initial=first_weights(tmp_path, VALUES),
            end={"rounds": 1},
            round={"min_agents": 1, "min_updates": 1},
        )
    )


def midway(proxy: Proxy, way: str) -> None:
    """Wait until a good part of a model has passed."""
    until(lambda: getattr(proxy, way) > CHUNK_BYTES + CHUNK_BYTES // 2)


def through(proxy: Proxy, start_agent: StartAgent) -> AgentThread:
    return start_agent(proxy.url, 1, doubled, initial_weights=None)


@pytest.mark.parametrize("way", ["down", "up"])
def test_restart_of_nginx_in_the_middle_of_a_transfer_costs_a_chunk(
    way: str, large: DaemonThread, start_nginx: StartNginx, start_agent: StartAgent
) -> None:
    nginx = start_nginx(location("/", http(large)))
    with Proxy(f"ws://{nginx.place}", bytes_per_s=BYTES) as proxy:
        agent = through(proxy, start_agent)
        midway(proxy, way)
        nginx.stop()
        nginx.start()
        assert agent.join().status == "finished"
        assert proxy.accepted == 2
        assert proxy.down < 2 * BYTES + 2 * CHUNK_BYTES  # the base and the final model
        assert proxy.up < BYTES + 2 * CHUNK_BYTES
    assert [round_id for round_id, _ in agent.trained] == [1]


def test_reload_of_nginx_in_the_middle_of_a_transfer_breaks_nothing(
    large: DaemonThread, start_nginx: StartNginx, start_agent: StartAgent
) -> None:
    nginx = start_nginx(location("/", http(large)))
    with Proxy(f"ws://{nginx.place}", bytes_per_s=BYTES) as proxy:
        agent = through(proxy, start_agent)
        midway(proxy, "down")
        nginx.reload()
        assert agent.join().status == "finished"
        assert proxy.accepted == 1


def test_daemon_that_is_down_behind_nginx_is_waited_for(
    start_daemon: StartDaemon, start_nginx: StartNginx, start_agent: StartAgent, unused_tcp_port: int
) -> None:
    nginx = start_nginx(location("/fl/", f"http://127.0.0.1:{unused_tcp_port}/"))
    agents = [start_agent(f"ws://{nginx.place}/fl/", number, site(number)) for number in (1, 2)]
    line = (
        f"{nginx.place} answered HTTP 502: the aggregator behind it cannot be reached; "
        "it may come back; trying again"
    )
    for agent in agents:
        until(lambda agent=agent: agent.line == line)  # type: ignore[misc]
        assert agent.agent.state is AgentState.CONNECTING
    start_daemon(run_of(), listen={"port": unused_tcp_port})
    assert [agent.join().status for agent in agents] == ["finished"] * 2
