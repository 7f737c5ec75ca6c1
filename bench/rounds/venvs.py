"""Peers in virtual environments of their own, under `bench/.peers/`, installed from PyPI once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rounds.work import CannotRunError

FOLDER = Path(__file__).resolve().parents[1] / ".peers"
DONE = "installed"  # a file in the environment: it was installed to the end
INSTALL_S = 900
REQUIREMENTS = """
import importlib.metadata, re, sys
for line in importlib.metadata.requires(sys.argv[1]) or []:
    if "extra ==" not in line:
        name = re.match(r"[A-Za-z0-9._-]+", line)[0]
        print(name if name in sys.argv[2:] else line)
"""
VERSIONS = """
import importlib.metadata, sys
for name in sys.argv[1:]:
    print(name, importlib.metadata.version(name))
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """A package of PyPI that is measured.

    Attributes:
        name: On PyPI.
        version: That is measured.
        unbound: Its requirements whose bounds are let go, where they ask for what PyPI may not have.
        companions: Whose versions are told, too.
    """

    name: str
    version: str
    unbound: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Return where it is installed."""
        return FOLDER / f"{self.name}-{self.version}"

    def program(self, name: str) -> Path:
        """Return a program of its environment; install it if that was not done."""
        if not (self.folder / DONE).exists():
            self._install()
        return self.folder / "bin" / name

    def environment(self) -> dict[str, str]:
        """Return what its programs need to find each other."""
        return {"PATH": f"{self.program('python').parent}{os.pathsep}{os.environ['PATH']}"}

    def versions(self) -> dict[str, str]:
        """Return the versions of what was installed."""
        command = [self.program("python"), "-c", VERSIONS, self.name, *self.companions]
        return dict(line.split() for line in _output(command).splitlines())

    def _install(self) -> None:
        print(f"installing {self.name} {self.version} into {self.folder} (once) ...", flush=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        _output([sys.executable, "-m", "venv", self.folder])
        python = self.folder / "bin" / "python"
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        _output([*pip, "--no-deps", f"{self.name}=={self.version}"])
        required = _output([python, "-c", REQUIREMENTS, self.name, *self.unbound]).splitlines()
        _output([*pip, *required])
        (self.folder / DONE).touch()


def _output(command: Sequence[object]) -> str:
    """Run a command; return what it wrote."""
    try:
        done = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise CannotRunError(f"cannot be installed: not done after {INSTALL_S} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr]
        raise CannotRunError(f"cannot be installed: {errors[-1].strip()[-300:]}")
    return done.stdout
