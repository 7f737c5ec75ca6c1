"""The commands in docs/database.md and what they print: `python -m tests.database_page` writes them anew.

The page's blocks are run in order, in a folder with the database of `tests.db.hearts`. What no two
machines have in common is not compared: ids and digests, and how large SQLite makes its file.
"""

import contextlib
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from click.testing import CliRunner

from fl_main.cli import fl
from fl_main.db import ModelDB
from tests.db import hearts

PAGE = Path(__file__).resolve().parent.parent / "docs" / "database.md"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)

_HEXADECIMAL = re.compile(r"[0-9a-f]{12,64}")
_PASSING = (
    re.compile(r"(?<=fl\.db    )\d+"),
    re.compile(r"(?<= model files; )\d+"),
    re.compile(r"\d{4}-\d\d-\d\d at \d\d:\d\d:\d\d"),  # when a command was run
)
_HEAD = re.compile(r"run-hearts:\d+:[0-9a-f]{64}")


@contextlib.contextmanager
def hearts_at_hand() -> Iterator[Path]:
    """Stand in a folder with the database and the program of the page, in UTC."""
    before, zone = Path.cwd(), os.environ.get("TZ")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.path.insert(0, folder)
        os.environ["TZ"] = "UTC"
        time.tzset()
        try:
            hearts.make(Path("models"))
            hearts.write_program(Path())
            yield Path(folder)
        finally:
            os.chdir(before)
            sys.path.remove(folder)
            sys.modules.pop("hearts", None)
            os.environ.pop("TZ") if zone is None else os.environ.update(TZ=zone)
            time.tzset()


def run_block(block: str) -> str:
    """Return a block with what its commands print now."""
    commands = [_with_head(line) for line in block.splitlines() if line.startswith("$ ")]
    return "".join(f"{command}\n{run(command)}" for command in commands)


def _with_head(command: str) -> str:
    """Return a command with the head of history that the database has now."""
    with ModelDB("models") as db:
        (head,) = (str(note) for note in db.heads() if note.run_id == "run-hearts")
    return _HEAD.sub(head, command)


def run(command: str) -> str:
    """Return what a command prints, errors too."""
    words = shlex.split(command.removeprefix("$ "))
    if words[0] == "cat":
        return Path(words[1]).read_text()
    if words[:2] == ["head", "-n"]:
        return "".join(Path(words[3]).read_text().splitlines(True)[: int(words[2])])
    assert words[0] == "fl", command
    done = CliRunner().invoke(fl, words[1:], prog_name="fl", catch_exceptions=False)
    return "".join(f"{line.rstrip()}\n" for line in done.output.splitlines())


def questions(text: str) -> str:
    """Return the part of the page whose commands are run."""
    return text.partition("## Questions\n")[2].partition("<!-- end of questions -->")[0]


def as_run(text: str) -> str:
    """Return the page with what all its commands print now; what is as good as before stays."""

    def block(match: re.Match[str]) -> str:
        made = run_block(match[1])
        return match[0] if without_passing(made) == without_passing(match[1]) else f"```console\n{made}```"

    worked = questions(text)
    with hearts_at_hand():
        return text.replace(worked, BLOCK.sub(block, worked))


def without_passing(text: str) -> str:
    """Return a text without what each machine has its own of; columns keep their width."""
    text = _HEXADECIMAL.sub(lambda match: "x" * len(match[0]), text)
    for pattern in _PASSING:
        text = pattern.sub("x", text)
    return text


def main() -> None:
    """Write the page."""
    text = as_run(PAGE.read_text("utf-8"))
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
