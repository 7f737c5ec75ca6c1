"""`fl db serve`: a process that tells where the page is, and ends when it is told to."""

import http.client
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

from fl_main.cli import fl
from fl_main.db import ModelStore
from fl_main.db.web import serving as page_server
from fl_main.db.web.app import create_app
from fl_main.settings import TlsSettings
from tests.db import building
from tests.db.web.serving import serving

StartPage = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start_page(folder: Path) -> Iterator[StartPage]:
    """Starts `fl db serve` with some options; what is left over is killed."""
    started = []

    def start(*options: str, **more: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fl_main", "db", "-d", str(folder), "serve", "--port", "0", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_page_is_where_it_says_and_ctrl_c_ends_it_though_somebody_listens(
    start_page: StartPage, store: ModelStore
) -> None:
    building.begin(store)
    process = start_page()
    found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", told(process))
    assert found
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=20)
    connection.request("GET", "/api/changes")
    answer = connection.getresponse()
    assert answer.readline() == b"retry: 2000\n"
    process.send_signal(signal.SIGINT)
    assert answer.read().endswith(b"\n")  # to its end, not cut off
    assert process.wait(20) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    connection.close()


def test_page_beside_a_daemon_ends_with_it(start_page: StartPage, store: ModelStore) -> None:
    process = start_page("--beside", stdin=subprocess.PIPE)
    assert told(process).startswith("http://127.0.0.1:")
    assert process.stdin is not None
    process.stdin.close()  # as the end of the process does that held it, however that came
    assert process.wait(20) == 0


def test_beyond_this_machine_a_token_is_made_and_told_once(start_page: StartPage, store: ModelStore) -> None:
    process = start_page("--host", "0.0.0.0", "--insecure", "--root-path", "/fl")
    found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/fl/\?token=([\w-]{43})", told(process))
    assert found
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=20)
    connection.request("GET", "/fl/api/runs", headers={"Authorization": f"Bearer {found[2]}"})
    assert json.loads(connection.getresponse().read()) == []
    connection.close()


def test_token_of_a_file_is_not_told(start_page: StartPage, store: ModelStore, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a word that nobody guesses\n")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", told(start_page("--token-file", str(file))))


def refused(folder: Path, *options: str) -> str:
    result = CliRunner().invoke(fl, ["db", "-d", str(folder), "serve", "--port", "0", *options])
    assert result.exit_code in (1, 2)
    [line] = result.stderr.strip().splitlines()[-1:]
    return line


def test_what_hinders_it_is_one_line(folder: Path, store: ModelStore, tmp_path: Path) -> None:
    assert refused(tmp_path / "nothing") == (
        f"error: there is no folder {tmp_path / 'nothing'}; name the model database with --folder"
    )
    assert refused(folder, "--host", "0.0.0.0") == (
        "error: --host: '0.0.0.0' can be reached from other machines: give --certificate and --key, "
        "or say --insecure"
    )
    assert refused(folder, "--root-path", "fl") == (
        "error: --root-path: 'fl' is not /, letters, digits and . _ ~ - that begin with /"
    )
    assert refused(folder, "--key", "key.pem") == "error: give --certificate and --key, or neither"
    assert refused(folder, "--token-file", "nothing", "--open").startswith(
        "error: --open would show the token"
    )
    assert refused(folder, "--token-file", str(folder / "nothing")).startswith("error: token: file ")
    assert refused(folder, "--port", "0", "--certificate", str(folder / "fl.db"), "--key", "k.pem") == (
        "error: tls.key: k.pem: no such file"
    )


def test_port_that_is_taken_is_told(folder: Path, store: ModelStore) -> None:
    from fl_main.db.web.serving import bind

    with bind("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert refused(folder, "--port", port) == (
            f"error: cannot listen on 127.0.0.1:{port}: Address already in use; "
            "choose another --host or --port (0 takes a free one)"
        )


def test_without_the_extra_it_says_what_to_install(
    folder: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("fl_main.db.web")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert refused(folder) == "error: uvicorn is not installed: pip install 'fl_main[web]'"


def test_connections_that_never_ask_are_closed_and_others_are_not(folder: Path, store: ModelStore) -> None:
    with serving(create_app(folder)) as page:
        page.server.silence_s = 0.0
        quiet = [socket.create_connection(("127.0.0.1", page.port), timeout=20) for _ in range(3)]
        quiet[1].sendall(b"GET /api/runs HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        quiet[2].sendall(b"GET /api/changes HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert quiet[2].recv(15) == b"HTTP/1.1 200 OK"
        for connection in quiet[:2]:
            assert connection.recv(1) == b""  # closed by the server
        while (piece := quiet[2].recv(1000)) and b"heads" not in piece:
            pass
        assert piece
        for connection in quiet:
            connection.close()


@pytest.fixture
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server, "MAX_SILENT", 5)
    monkeypatch.setattr(page_server, "MAX_CONNECTIONS", 10)


def asked_again(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/api/runs")
    answer = connection.getresponse()
    answer.read()
    return answer.status


@pytest.mark.usefixtures("few_places")
def test_however_many_never_ask_whoever_asks_is_answered(folder: Path, store: ModelStore) -> None:
    with serving(create_app(folder)) as page, ExitStack() as opened:
        asking = opened.enter_context(closing(page.connected()))
        listening = opened.enter_context(socket.create_connection(("127.0.0.1", page.port), timeout=20))
        listening.sendall(b"GET /api/changes HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert listening.recv(15) == b"HTTP/1.1 200 OK"
        quiet = []
        for number in range(30):
            quiet.append(opened.enter_context(socket.create_connection(("127.0.0.1", page.port), timeout=20)))
            assert number % 3 or asked_again(asking) == 200  # over the same connection
        assert page.ask("/api/runs").status == 200
        for connection in quiet[:20]:
            assert connection.recv(1) == b""  # it had to make room
        while (piece := listening.recv(1000)) and b"heads" not in piece:
            pass
        assert piece


@pytest.mark.usefixtures("few_places")
def test_however_many_begin_no_tls_whoever_does_is_answered(
    folder: Path, store: ModelStore, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "c.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "k.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    tls = TlsSettings(certificate=tmp_path / "c.pem", key=tmp_path / "k.pem")
    with serving(create_app(folder), tls=tls) as page, ExitStack() as opened:
        quiet = [
            opened.enter_context(socket.create_connection(("127.0.0.1", page.port), timeout=20))
            for _ in range(30)
        ]
        quiet[-1].sendall(b"GET / HTTP/1.1\r\n\r\n")  # no TLS either
        asking = http.client.HTTPSConnection("localhost", page.port, timeout=20, context=context)
        assert asked_again(opened.enter_context(closing(asking))) == 200
        for connection in quiet[:20]:
            assert connection.recv(1) == b""


@pytest.mark.usefixtures("few_places")
def test_whoever_asks_is_one_too_many_is_told_to_come_again(folder: Path, store: ModelStore) -> None:
    with serving(create_app(folder)) as page, ExitStack() as opened:
        for _ in range(9):
            listening = opened.enter_context(socket.create_connection(("127.0.0.1", page.port), timeout=20))
            listening.sendall(b"GET /api/changes HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert listening.recv(15) == b"HTTP/1.1 200 OK"
        assert page.ask("/api/runs").status == 503


BUSY = """
import sys, threading
from pathlib import Path
from fl_main.db.web import api, serving
from fl_main.settings import WebSettings

@api.router.get("/busy", include_in_schema=False)
def busy():
    print("at work", flush=True)
    threading.Event().wait()

api.router.routes.insert(0, api.router.routes.pop())
serving.serve(Path(sys.argv[1]), WebSettings(port=0), lambda place: print(place.url, flush=True))
"""


def test_an_answer_that_is_worked_out_does_not_hold_up_the_end(folder: Path, store: ModelStore) -> None:
    command = [sys.executable, "-c", BUSY, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(told(process).rstrip("/").rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), timeout=20) as asked:
                asked.sendall(b"GET /api/busy HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert told(process) == "at work"
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
        finally:
            process.kill()
