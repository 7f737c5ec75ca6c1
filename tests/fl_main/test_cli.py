import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fl_main import __version__
from fl_main.cli import COMMANDS, fl

ROOT = Path(__file__).resolve().parents[2]


def test_help_lists_every_command_without_importing_any() -> None:
    program = (
        "import sys\nfrom fl_main.cli import main\nsys.argv = ['fl', '--help']\n"
        "try:\n    main()\nexcept SystemExit as exc:\n    assert exc.code == 0\n"
        "heavy = {'numpy', 'pydantic', 'rich', 'sqlalchemy', 'websockets', 'yaml'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name, command in COMMANDS.items():
        assert name in done.stdout
        assert command.help in done.stdout


@pytest.mark.parametrize("name", ["status", "run", "why", "db"])
def test_who_asks_a_daemon_or_a_database_does_not_load_what_the_daemon_is_made_of(name: str) -> None:
    module = COMMANDS[name].target.partition(":")[0]
    parts = "{'sqlalchemy', 'fl_main.aggregator.server', 'fl_main.rounds', 'fl_main.db.store'}"
    program = f"import sys, {module}\nprint(*({parts} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_where_the_table_says(name: str) -> None:
    module, _, attribute = COMMANDS[name].target.partition(":")
    command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.name == name


def test_version() -> None:
    assert CliRunner().invoke(fl, ["--version"]).output == f"fl {__version__}\n"


def test_unknown_command() -> None:
    result = CliRunner().invoke(fl, ["nix"])
    assert result.exit_code == 2
    assert "No such command 'nix'" in result.stderr


def test_command_in_use_is_loaded() -> None:
    result = CliRunner().invoke(fl, ["settings", "table", "run"])
    assert result.exit_code == 0
    assert result.stdout.startswith("| key | takes | default | is |")


def test_error_of_a_command_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(fl, ["settings", "check", str(tmp_path / "nix.yaml")])
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path}/nix.yaml: no such file\n"
