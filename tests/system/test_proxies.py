"""The way out through an HTTP proxy, as the environment names it; its refusals, each in one line."""

import http.server
import logging
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from fl_main.agent import Agent, AgentState, ConnectionFailedError
from fl_main.proxies import find_proxy
from tests.system.conftest import StartAgent, StartDaemon
from tests.system.daemons import DaemonThread, fl, run_of, until
from tests.system.proxy import ConnectProxy, response

NAME = "aggregator.example:8765"  # known to the proxy only
URL = f"ws://{NAME}"

Through = Callable[..., ConnectProxy]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies of the developer's."""
    for scheme in ("ws", "wss", "http", "https", "all", "socks", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> DaemonThread:
    return start_daemon(run_of())


@pytest.fixture
def through(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Through:
    """Put a proxy into the environment: `through(daemon, login="u:p", variable="HTTPS_PROXY")`."""

    def put(
        daemon: DaemonThread | None = None, *, variable: str = "http_proxy", user: str = "", **options: object
    ) -> ConnectProxy:
        names = {NAME: daemon.url} if daemon else {}
        proxy = ConnectProxy(names, **options)  # type: ignore[arg-type]
        stack.enter_context(proxy)
        monkeypatch.setenv(variable, proxy.url.replace("://", f"://{user}@") if user else proxy.url)
        return proxy

    return put


def place(proxy: ConnectProxy, variable: str = "http_proxy") -> str:
    return f"the proxy {proxy.url.partition('//')[2]} (from {variable})"


def finished(start_agent: StartAgent, url: str = URL, **options: object) -> None:
    agents = [start_agent(url, number, **options) for number in (1, 2)]
    assert [agent.join().status for agent in agents] == ["finished"] * 2


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """How an agent's program hears that it cannot connect, and need not try again."""

    def connect(url: str = URL, **options: object) -> str:
        with (
            Agent(url, "r", "a", state_folder=tmp_path / "state", progress=False, **options) as agent,  # type: ignore[arg-type]
            pytest.raises(ConnectionFailedError) as raised,
        ):
            next(agent.tasks())
        assert "\n" not in str(raised.value)
        return str(raised.value)

    return connect


# --- through it --------------------------------------------------------------------------


def test_agents_train_through_a_proxy_that_alone_knows_the_aggregators_name(
    daemon: DaemonThread, through: Through, start_agent: StartAgent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fl_main.links")
    proxy = through(daemon)
    finished(start_agent)
    assert set(proxy.asked) == {f"CONNECT {NAME} HTTP/1.1"}
    assert {record.getMessage() for record in caplog.records if record.name == "fl_main.links"} == {
        f"connected to {NAME} through {place(proxy)}"
    }


def test_operators_go_through_it_too(daemon: DaemonThread, through: Through, tmp_path: Path) -> None:
    proxy = through(daemon)
    done = fl("status", "--url", URL, "--database", str(daemon.folder), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert proxy.asked == [f"CONNECT {NAME} HTTP/1.1"]


def test_credentials_of_the_proxy_work_and_are_in_no_log(
    daemon: DaemonThread, through: Through, start_agent: StartAgent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    through(daemon, login="doctor:p@ss/word", user="doctor:p%40ss%2Fword")
    finished(start_agent)
    for secret in ("p@ss", "p%40ss", "doctor"):
        assert secret not in caplog.text


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


@pytest.fixture
def secure(authority: trustme.CA, start_daemon: StartDaemon, tmp_path: Path) -> DaemonThread:
    """A daemon that speaks TLS under its name outside."""
    issued = authority.issue_cert("aggregator.example")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    return start_daemon(
        run_of(), tls={"certificate": tmp_path / "certificate.pem", "key": tmp_path / "key.pem"}
    )


def test_tls_goes_from_end_to_end_through_the_proxy(
    secure: DaemonThread, ca_file: Path, through: Through, start_agent: StartAgent
) -> None:
    proxy = through(secure, variable="HTTPS_PROXY")
    finished(start_agent, f"wss://{NAME}", ca_file=ca_file)
    assert set(proxy.asked) == {f"CONNECT {NAME} HTTP/1.1"}


def test_proxy_that_speaks_tls_itself(
    secure: DaemonThread,
    authority: trustme.CA,
    ca_file: Path,
    through: Through,
    start_agent: StartAgent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    proxy = through(secure, variable="HTTPS_PROXY", tls=context)
    finished(start_agent, f"wss://{NAME}", ca_file=ca_file)
    assert proxy.asked


def test_certificate_behind_a_proxy_that_is_not_trusted(
    secure: DaemonThread, through: Through, refused: Callable[..., str]
) -> None:
    proxy = through(secure, variable="HTTPS_PROXY")
    text = refused(f"wss://{NAME}")
    assert text.startswith(f"the certificate of {NAME} is not trusted (")
    assert text.endswith(
        f"); give its authority as ca_file; the way leads through {place(proxy, 'HTTPS_PROXY')}"
    )


# --- which one ---------------------------------------------------------------------------

WAYS = [
    ("ws://far.example", {"http_proxy": "http://p:1"}, "the proxy p:1 (from http_proxy)"),
    ("ws://far.example", {"HTTP_PROXY": "http://p:1"}, "the proxy p:1 (from HTTP_PROXY)"),
    ("ws://far.example", {"https_proxy": "http://p:1"}, "None"),
    ("wss://far.example", {"HTTPS_PROXY": "http://p:1"}, "the proxy p:1 (from HTTPS_PROXY)"),
    ("wss://far.example", {"http_proxy": "http://p:1"}, "None"),
    ("ws://far.example", {"ALL_PROXY": "p:1"}, "the proxy p:1 (from ALL_PROXY)"),
    ("wss://far.example", {"ALL_PROXY": "p:1", "https_proxy": "q:1"}, "the proxy q:1 (from https_proxy)"),
    ("wss://far.example", {"HTTPS_PROXY": "p:1", "https_proxy": "q:1"}, "the proxy q:1 (from https_proxy)"),
    ("wss://far.example", {"HTTPS_PROXY": "p:1", "https_proxy": ""}, "None"),
    ("ws://far.example", {"ws_proxy": "p:1", "http_proxy": "q:1"}, "the proxy p:1 (from ws_proxy)"),
    ("ws://far.example", {"http_proxy": "u:secret@p:1"}, "the proxy p:1 (from http_proxy)"),
    ("ws://far.example", {"http_proxy": "p:1", "no_proxy": "near.example, far.example"}, "None"),
    ("ws://a.far.example:1", {"http_proxy": "p:1", "NO_PROXY": ".far.example"}, "None"),
    ("ws://far.example", {"http_proxy": "p:1", "no_proxy": "*"}, "None"),
    ("ws://10.1.2.3:8765", {"http_proxy": "p:1", "no_proxy": "x/y,10.0.0.0/8"}, "None"),
    (
        "ws://11.1.2.3:8765",
        {"http_proxy": "p:1", "no_proxy": "10.0.0.0/8"},
        "the proxy p:1 (from http_proxy)",
    ),
    ("ws://localhost:8765", {"http_proxy": "p:1"}, "None"),
    ("ws://127.0.0.1:8765", {"http_proxy": "p:1"}, "None"),
    ("wss://[::1]:8765", {"https_proxy": "p:1"}, "None"),
]


@pytest.mark.parametrize(("url", "variables", "expected"), WAYS)
def test_proxy_of_the_environment(
    url: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(find_proxy(url)) == expected
    assert "secret" not in repr(find_proxy(url))


def test_proxy_of_a_whole_machine_leaves_agents_of_the_same_machine_alone(
    daemon: DaemonThread, through: Through, start_agent: StartAgent
) -> None:
    proxy = through(answer=response("403 Forbidden"))
    finished(start_agent, daemon.url)
    assert proxy.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "http://u:sec/ret@p:1",
        "http://u:sec#ret@p:1",
        "http://sec@ret:p:1",
        "http://secret@p:1",
        "ftp://secret:secret@p:1",
        "http://:1",
        "http://u:secret@p:0",
    ],
)
def test_address_of_a_proxy_that_is_none_tells_no_part_of_it(
    address: str, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.setenv("HTTP_PROXY", address)
    assert refused() == (
        "HTTP_PROXY is no address of a proxy like http://user:password@host:port; "
        "special characters in a password are percent-encoded"
    )


@pytest.mark.parametrize("address", ["socks5://u:secret@p:1", "socks://u:secret@p:1"])
def test_socks_needs_one_more_package(
    address: str, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    monkeypatch.setenv("ALL_PROXY", address)
    assert refused().startswith(
        "the proxy p:1 (from ALL_PROXY) speaks SOCKS, which needs one more package: "
        "pip install 'python-socks[asyncio]'"
    )


# --- what it refuses ---------------------------------------------------------------------

AROUND = ", or put the aggregator's host into NO_PROXY if none is needed"


def test_proxy_that_wants_credentials(
    daemon: DaemonThread, through: Through, refused: Callable[..., str]
) -> None:
    proxy = through(daemon, login="u:p")
    assert refused() == (
        f"{place(proxy)} wants a user name and a password: http://user:password@host:port{AROUND}"
    )


def test_credentials_that_are_wrong(
    daemon: DaemonThread, through: Through, refused: Callable[..., str]
) -> None:
    proxy = through(daemon, login="u:p", user="u:secret")
    assert refused() == (
        f"{place(proxy)} does not take the user name and password that are in its address; correct them"
    )


def test_proxy_that_wants_a_login_of_a_kind_that_is_not_spoken(
    through: Through, refused: Callable[..., str]
) -> None:
    offers = ("Proxy-Authenticate: Negotiate", "Proxy-Authenticate: NTLM")
    proxy = through(answer=response("407 Proxy Authentication Required", *offers))
    assert refused().startswith(
        f"{place(proxy)} wants a login by Negotiate or NTLM, and only Basic is spoken here; ask who runs it"
    )


def test_proxy_that_forbids_the_way(through: Through, refused: Callable[..., str]) -> None:
    proxy = through(answer=response("403 Forbidden"))
    assert refused() == (
        f"{place(proxy)} forbids the way to {NAME} (HTTP 403); "
        f"ask who runs it to allow CONNECT to {NAME}{AROUND}"
    )


def test_web_server_that_is_no_proxy(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    for url in serving(stack):
        monkeypatch.setenv("http_proxy", url)
        host = url.partition("//")[2]
        assert refused() == (
            f"the proxy {host} (from http_proxy) opens no tunnels (HTTP 501); correct its address{AROUND}"
        )


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass


def serving(stack: ExitStack) -> Iterator[str]:
    server = stack.enter_context(http.server.HTTPServer(("127.0.0.1", 0), Quiet))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()


# --- where waiting can help --------------------------------------------------------------


@pytest.fixture
def waits(start_agent: StartAgent) -> Callable[[str], None]:
    """Check that an agent says a line and goes on trying."""

    def check(line: str, url: str = URL) -> None:
        agent = start_agent(url, 1)
        until(lambda: line in agent.line, f"for {line!r}; it said {agent.line!r}")
        assert agent.agent.state is AgentState.CONNECTING

    return check


def test_proxy_that_is_not_there(
    waits: Callable[[str], None], unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_tcp_port}")
    waits(
        f"nothing listens at the proxy 127.0.0.1:{unused_tcp_port} (from http_proxy); "
        f"correct its address{AROUND}"
    )


def test_proxy_of_an_unknown_name(waits: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    waits(f"the proxy proxy.invalid:3128 (from HTTP_PROXY) has an unknown address; correct it{AROUND}")


def test_proxy_that_cannot_reach_the_aggregator(through: Through, waits: Callable[[str], None]) -> None:
    proxy = through()
    waits(f"{place(proxy)} cannot reach {NAME} (HTTP 502); check the url and that the aggregator runs")


def test_proxy_that_wants_a_login_on_a_web_page(through: Through, waits: Callable[[str], None]) -> None:
    proxy = through(answer=response("302 Found", "Location: http://login.example/"))
    waits(f"{place(proxy)} answers something else (HTTP 302); open a web page: perhaps it wants a login")


def test_proxy_that_answers_nonsense(through: Through, waits: Callable[[str], None]) -> None:
    proxy = through(answer=b"SSH-2.0-OpenSSH\r\n\r\n")
    waits(f"{place(proxy)} does not answer as an HTTP proxy does; correct its address{AROUND}")


def test_proxy_that_does_not_answer(
    daemon: DaemonThread, through: Through, waits: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_main.agent.connection.dial", _impatient)
    proxy = through(daemon)
    proxy.hangs = True
    waits(
        f"{NAME} did not answer in time; check the address and firewalls; "
        f"the way leads through {place(proxy)}"
    )


async def _impatient(url: str, **options: object) -> object:
    from fl_main.links import dial

    return await dial(url, timeout_s=0.5, **options)  # type: ignore[arg-type]


def test_connection_that_ends_in_the_tunnel(through: Through, waits: Callable[[str], None]) -> None:
    proxy = through(answer=response("200 OK"))  # and closes
    waits(
        f"{NAME} does not answer as an aggregator does; if it is a TLS port, the url begins with wss://; "
        f"the way leads through {place(proxy)}"
    )
