"""The page beside a daemon: its process comes and goes with it, and harms no round."""

import json
import signal
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme

pytest.importorskip("fastapi", reason="needs the extra web: pip install -e '.[web]'")

from fl_main.db.web.live import RETRY_MS
from tests.system.conftest import StartAgent, StartDaemon, StartProcess
from tests.system.daemons import DaemonProcess, fl, run_of, until
from tests.system.nginx import NGINX, Nginx
from tests.system.test_nginx import location

FREE = "127.0.0.1:0"


def answer(url: str, context: ssl.SSLContext | None = None, **headers: str) -> Any:
    asked = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(asked, timeout=20, context=context) as found:
        return json.loads(found.read())


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def page_of(daemon: DaemonProcess, number: int = 1) -> tuple[str, psutil.Process]:
    """Wait for the page's line, the `number`-th of the log; return its address and its process."""
    daemon.seen(rf"(?s)(page url=.*){{{number}}}")
    url = daemon.text.split("page url=")[number].split()[0]
    [child] = psutil.Process(daemon.pid).children()
    return url, child


def test_a_run_is_seen_on_the_page_beside_its_daemon(
    start_process: StartProcess, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = start_process(run_of(), options=("--web", FREE)).started()
    url, child = page_of(daemon)
    assert child.nice() > psutil.Process(daemon.pid).nice()
    with urllib.request.urlopen(f"{url}api/changes", timeout=20) as changes:
        assert changes.readline() == f"retry: {RETRY_MS}\n".encode()
        agents = [start_agent(daemon.url, number) for number in (1, 2)]
        for agent in agents:
            agent.join()
        until(lambda: answer(f"{url}api/runs")[0]["status"] == "finished")
        while not (line := changes.readline()).startswith(b'data: {"run_id": '):
            assert line
    assert answer(f"{url}api/runs/r")["facts"]["rounds_done"] == 3
    daemon.stop(signal.SIGTERM)
    assert is_gone(child)


def test_a_page_that_dies_comes_back_and_a_daemon_that_is_killed_takes_it_along(
    start_process: StartProcess,
) -> None:
    daemon = start_process(options=("--web", FREE))
    _, child = page_of(daemon)
    child.kill()
    daemon.seen("page ended code=-9")
    url, child = page_of(daemon, 2)
    assert answer(f"{url}api/runs") == []
    daemon.kill()
    until(lambda: is_gone(child), "for the page to end")


def test_a_daemon_that_stands_still_does_not_hold_up_its_page(start_process: StartProcess) -> None:
    daemon = start_process(options=("--web", FREE))
    url, _ = page_of(daemon)
    daemon.signal(signal.SIGSTOP)
    assert answer(f"{url}api/runs") == []
    daemon.signal(signal.SIGCONT)
    daemon.stop()


def test_a_page_that_cannot_listen_leaves_its_daemon_alone(start_process: StartProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = start_process(options=("--web", f"127.0.0.1:{port}")).started()
        daemon.seen("page ended code=2")
        assert f"error: cannot listen on 127.0.0.1:{port}: Address already in use; " in daemon.text
        assert "choose another --web HOST:PORT, web.host or web.port (0 takes" in daemon.text
        daemon.stop()


@pytest.mark.parametrize("place", ["8766", "127.0.0.1:", ":port", "127.0.0.1:99999"])
def test_a_place_that_is_none_is_told(place: str) -> None:
    done = fl("aggregator", "--web", place)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


def test_page_of_the_settings_has_its_own_token_and_encryption(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    authority = trustme.CA()
    own = authority.issue_cert("localhost", "127.0.0.1")
    own.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "token").write_text("a word that nobody guesses\n")
    tls = {"certificate": str(tmp_path / "certificate.pem"), "key": str(tmp_path / "key.pem")}
    daemon = start_daemon(web={"port": 0, "tls": tls, "token": {"file": str(tmp_path / "token")}})
    page = daemon.aggregator.page
    assert page is not None
    url = until(lambda: page.url, "for the page")
    assert url.startswith("https://127.0.0.1:")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        answer(f"{url}api/runs", context)
    shown = {"Authorization": "Bearer a word that nobody guesses"}
    assert answer(f"{url}api/runs", context, **shown) == []


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light")
def test_behind_nginx_every_link_has_its_prefix_and_changes_come_at_once(
    start_process: StartProcess, tmp_path: Path
) -> None:
    daemon = start_process(web={"port": 0, "root_path": "/fl"})
    url, _ = page_of(daemon)
    with Nginx(tmp_path / "nginx", location("/fl/", url.removesuffix("fl/"), "")) as nginx:
        place = f"http://{nginx.place}/fl/"
        assert answer(f"{place}api/openapi.json")["servers"] == [{"url": "/fl"}]
        with urllib.request.urlopen(place, timeout=20) as found:
            text = found.read().decode()
        assert 'href="/fl/static/' in text
        assert 'href="/static/' not in text
        with urllib.request.urlopen(f"{place}api/changes", timeout=20) as changes:
            assert changes.readline() == f"retry: {RETRY_MS}\n".encode()
