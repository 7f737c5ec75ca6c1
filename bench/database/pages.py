"""How long each page and each answer of the JSON API takes, asked of `fl db serve` by HTTP."""

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

RUN, OTHER = "run-000", "run-001"
NAMES = {"run": RUN, "model": f"{RUN}:best", "name": f"{RUN}:best"}
GIVEN = {"other": f"other={RUN}:2", "runs": f"runs={RUN},{OTHER}"}  # of queries, what must be given
ENDLESS = "/api/changes"
TURNS = 5


def time_pages(folder: Path, turns: int = TURNS) -> dict[str, float]:
    """Return the median seconds of a whole answer, by path; they take turns.

    Args:
        folder: Of a database as `make` makes it.
    """
    taken: dict[str, list[float]] = {}
    with _serving(folder.resolve()) as url:
        paths = [*_pages(url), *_answers(url)]
        for _ in range(turns):
            for path in paths:
                taken.setdefault(path, []).append(_seconds(f"{url}{path}"))
    return {_shown(path): statistics.median(seconds) for path, seconds in taken.items()}


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "fl_main", "db", "--folder", str(folder), "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip().rstrip("/")
        finally:
            server.terminate()


def _get(url: str) -> str:
    with urlopen(url, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def _seconds(url: str) -> float:
    began = time.perf_counter()
    _get(url)
    return time.perf_counter() - began


def _pages(url: str) -> list[str]:
    """Return what the pages of a run and of its best model link to, as far as it belongs to that run."""
    found = {"/": None}
    for path in ("/", f"/runs/{RUN}", f"/models/{NAMES['model']}"):
        found[path] = None
        for link in re.findall(r'href="(/[^"#?]*)', _get(f"{url}{path}")):
            if re.fullmatch(rf"/runs/({RUN}|[0-9a-f]{{24}})/\w+", link) and path != "/":
                found[re.sub("(?<=/runs/)[0-9a-f]{24}", RUN, link)] = None
    return list(found)


def _answers(url: str) -> list[str]:
    """Return a question for each path of the JSON API."""
    found = []
    for path, methods in json.loads(_get(f"{url}/api/openapi.json"))["paths"].items():
        parameters = methods["get"].get("parameters", [])
        needed = [GIVEN[each["name"]] for each in parameters if each["in"] == "query" and each["required"]]
        if path != ENDLESS:
            found.append("?".join([path.format(**NAMES), *needed]))
    return [*found, "/api/"]


def _shown(path: str) -> str:
    return path.replace(RUN, "RUN").replace(OTHER, "OTHER")
