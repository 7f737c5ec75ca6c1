"""The wheel and the sdist, and a life without the checkout.

Slow, and pip needs a package index: not part of the default run, but a stage of CI
(`make wheel-test`).
"""

import os
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent

FOLDERS = {
    "fl_main": "fl_main",
    "agent": "fl_main/agent",
    "aggregator": "fl_main/aggregator",
    "db": "fl_main/db",
}


def run(command: Sequence[str | Path], cwd: Path) -> str:
    """Run a command as a user would, without what pytest or make set; return what it prints."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV", "MAKE", "COV"))
    }
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def project_files() -> list[Path]:
    """What a clone would have, and files not yet added to it; relative to the root."""
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    names = [Path(name) for name in listed.split("\0") if name]
    return sorted(name for name in names if (ROOT / name).is_file())


@dataclass(frozen=True)
class Distribution:
    checkout: Path  # a copy of the project's files, and of nothing else
    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    checkout = tmp_path_factory.mktemp("checkout")
    for name in project_files():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, checkout / name)
    dist = tmp_path_factory.mktemp("dist")
    # Without options, build makes the wheel out of the sdist: so that is complete as well.
    run([sys.executable, "-m", "build", "--outdir", dist, checkout], cwd=dist)
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    return Distribution(checkout, wheel, sdist)


@pytest.fixture(scope="module")
def scripts(distribution: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of an environment with nothing but the wheel and what it needs."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    run([sys.executable, "-m", "venv", venv], cwd=venv.parent)
    scripts = venv / ("Scripts" if os.name == "nt" else "bin")
    install: list[str | Path] = ["-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    run([scripts / "python", *install, distribution.wheel], cwd=venv.parent)
    return scripts


def test_wheel_owns_one_name_only(distribution: Distribution) -> None:
    names = zipfile.ZipFile(distribution.wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fl_main"}


def test_wheel_has_every_module_and_no_other(distribution: Distribution) -> None:
    names = zipfile.ZipFile(distribution.wheel).namelist()
    expected = {
        f"{FOLDERS[name.parts[0]]}/{'/'.join(name.parts[1:])}"
        for name in project_files()
        if name.parts[0] in FOLDERS and name.suffix == ".py"
    }
    assert {name for name in names if name.endswith(".py")} == expected
    assert "fl_main/py.typed" in names
    page = {
        f"fl_main/{name.as_posix()}"
        for name in project_files()
        if name.parts[:3] in {("db", "web", "templates"), ("db", "web", "static")}
    }
    assert page
    assert {name for name in names if name.startswith("fl_main/db/web/") and not name.endswith(".py")} == page
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_sdist_can_be_tested_and_documented(distribution: Distribution) -> None:
    with tarfile.open(distribution.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        name.as_posix()
        for name in project_files()
        if name.parts[0] in {*FOLDERS, "bench", "docs", "examples", "setting", "tests"}
    }
    assert not wanted - names
    assert {"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "mkdocs.yml", "pyproject.toml"} <= names


def test_command_works(scripts: Path, distribution: Distribution, tmp_path: Path) -> None:
    version = distribution.wheel.name.split("-")[1]
    assert version in run([scripts / "fl", "--version"], cwd=tmp_path)
    text = run([scripts / "fl", "--help"], cwd=tmp_path)
    for command in ("aggregator", "agent", "run", "status", "db", "settings"):
        assert f" {command}" in text
        assert "Usage" in run([scripts / "fl", command, "--help"], cwd=tmp_path)


# In the checkout, too, where its own fl_main/ hides the installed one: the commonest trap of all.
@pytest.mark.parametrize("place", ["elsewhere", "checkout"])
def test_modules_run(scripts: Path, distribution: Distribution, tmp_path: Path, place: str) -> None:
    cwd = distribution.checkout if place == "checkout" else tmp_path
    assert "Usage" in run([scripts / "python", "-m", "fl_main.aggregator", "--help"], cwd=cwd)


def test_agent_needs_nothing_of_the_server(scripts: Path, tmp_path: Path) -> None:
    program = "import sys, fl_main.agent; print(fl_main.agent.__file__, *sys.modules, sep='\\n')"
    where, *modules = run([scripts / "python", "-c", program], cwd=tmp_path).splitlines()
    assert scripts.parent in Path(where).parents
    assert not set(modules) & {"sqlalchemy", "fl_main.aggregator", "fl_main.db"}


def test_page_says_what_it_needs_and_is_served_with_it(
    scripts: Path, distribution: Distribution, tmp_path: Path
) -> None:
    run([scripts / "python", "-c", "from fl_main.db import ModelStore; ModelStore('models')"], cwd=tmp_path)
    serve: list[str | Path] = ["db", "serve", "--port", "0"]
    done = subprocess.run([scripts / "fl", *serve], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not installed: pip install 'fl_main[web]'" in done.stderr
    venv = tmp_path / "venv"
    run([sys.executable, "-m", "venv", venv], cwd=tmp_path)
    place = venv / scripts.name
    install: list[str | Path] = ["-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    run([place / "python", *install, f"{distribution.wheel}[web]"], cwd=tmp_path)
    with subprocess.Popen([place / "fl", *serve], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        for path in ("", "static/page.css", "api/", "api/runs"):
            with urllib.request.urlopen(url + path, timeout=60) as answer:
                assert answer.status == 200, path
        server.terminate()
    assert server.returncode == 0


def test_installed_packages_fit_together(scripts: Path, tmp_path: Path) -> None:
    run([scripts / "python", "-m", "pip", "check"], cwd=tmp_path)
