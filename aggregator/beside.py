"""The page over the model database, in a process of its own: it may crash or be busy, rounds go on."""

import asyncio
import contextlib
import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from fl_main.errors import MissingExtraError
from fl_main.settings import WebSettings
from fl_main.settings.files import read_secret

logger = logging.getLogger("fl_main.aggregator")

TOKEN_VARIABLE = "FL_WEB_TOKEN"  # a secret on a command line would be seen by all users of the machine
FIRST_S, LONGEST_S = 1.0, 60.0  # after a crash it is started again, ever later if it crashes at once
STEADY_S = 60.0  # so long up, it counts as started
STOP_S = 2.0
NEEDED = ("fastapi", "jinja2", "uvicorn")


class WebPage:
    """Keeps `fl db serve` running for as long as the daemon does.

    The child ends when its standard input does: also where the daemon is killed.

    Args:
        settings: Where it listens, and who may look.
        folder: Of the database.
        insecure: Whether it may listen beyond this machine without TLS.

    Attributes:
        url: Where it is, with a token that was made for it; empty while it is not up.

    Raises:
        MissingExtraError: If a package that it needs is not installed.
    """

    def __init__(self, settings: WebSettings, folder: Path, *, insecure: bool) -> None:
        if missing := next((name for name in NEEDED if find_spec(name) is None), None):
            raise MissingExtraError(f"the page needs {missing}: pip install 'fl_main[web]', or leave out web")
        self.url = ""
        self._command = [sys.executable, "-m", "fl_main", "db", "serve", "--beside", *_options(settings)]
        self._command += ["--folder", str(folder), *(["--insecure"] if insecure else [])]
        self._token = "" if settings.token is None else read_secret(settings.token, "web.token")
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start it; what comes of that is logged."""
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Let it end; may be called twice, and without a start."""
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping

    async def _keep(self) -> None:
        loop, wait_s = asyncio.get_running_loop(), FIRST_S
        while True:
            began = loop.time()
            try:
                ended = f"ended code={await self._run()}"
            except OSError as error:  # no memory, descriptor or process left, or Python is being upgraded
                ended = f"could not be started: {error}"
            wait_s = FIRST_S if loop.time() - began > STEADY_S else min(2 * wait_s, LONGEST_S)
            logger.error("page %s; another is started in %.0f s", ended, wait_s)
            await asyncio.sleep(wait_s)

    async def _run(self) -> int:
        """Run it once; return its exit code."""
        pipe = asyncio.subprocess.PIPE
        environ = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
        environ |= {TOKEN_VARIABLE: self._token} if self._token else {}
        child = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, env=environ, start_new_session=True
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            self.url = (await child.stdout.readline()).decode().strip()
            if self.url:
                logger.info("page url=%s", self.url)
            return await child.wait()
        finally:
            self.url = ""
            child.stdin.close()
            await _ended(child)


def _options(settings: WebSettings) -> list[str]:
    options = ["--host", settings.host, "--port", str(settings.port), "--root-path", settings.root_path]
    if settings.tls is not None:
        options += ["--certificate", str(settings.tls.certificate), "--key", str(settings.tls.key)]
    return options


async def _ended(child: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(STOP_S):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()
