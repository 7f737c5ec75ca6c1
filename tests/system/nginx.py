"""A private nginx: Debian's package, any user, a free port."""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from tests.system.daemons import PATIENCE_S, until

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

MAIN = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Nginx:
    """An nginx with a configuration of its own.

    Args:
        folder: For its files.
        servers: What stands in its `http` section; `PORT` in it is where it shall listen.

    Attributes:
        place: Its address.
    """

    def __init__(self, folder: Path, servers: str) -> None:
        folder.mkdir(exist_ok=True)
        port = free_port()
        self.place = f"127.0.0.1:{port}"
        self._address = ("127.0.0.1", port)
        self._log = folder / "error.log"
        self._file = folder / "nginx.conf"
        self._file.write_text(MAIN.format(folder=folder, servers=servers.replace("PORT", str(port))))
        self.start()

    def __enter__(self) -> "Nginx":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        command = [str(NGINX), "-e", "stderr", "-p", str(self._file.parent), "-c", str(self._file)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE)
        until(self._listens, "for nginx")

    def _listens(self) -> bool:
        assert self._process.poll() is None, self._process.communicate()[1].decode()
        with socket.socket() as probe:
            return probe.connect_ex(self._address) == 0

    def reload(self) -> None:
        """Take up the configuration anew; the old worker serves its connections to their end."""
        self._process.send_signal(signal.SIGHUP)
        until(lambda: "gracefully shutting down" in self._log.read_text(), "for the reload")

    def stop(self) -> None:
        """End it and all connections; may be called twice."""
        self._process.terminate()
        self._process.communicate(timeout=PATIENCE_S)
