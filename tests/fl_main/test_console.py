import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fl_main.console import CommandGroup, Row, configure_logging, output_options, print_table, run_command
from fl_main.errors import FLError, SettingsError, StoreError

ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"run": "a", "rounds": 10, "loss": 0.123456789}, {"run": "bcd", "rounds": 2, "loss": None}]


def command_that_raises(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


def exit_code(command: click.Command) -> object:
    with pytest.raises(SystemExit) as caught:
        run_command(command, [], "fl")
    return caught.value.code


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SettingsError("a: b\nc: d"), 2, "error: a: b\nerror: c: d\n"),
        (StoreError("locked"), 1, "error: locked\n"),
        (FLError(), 1, "error: FLError\n"),
        (KeyboardInterrupt(), 130, "\n"),
        (click.ClickException("bad"), 1, "Error: bad\n"),
        (click.exceptions.Exit(3), 3, ""),
    ],
)
def test_error_ends_in_a_line_and_a_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    assert exit_code(command_that_raises(error)) == code
    assert capsys.readouterr().err == said


def test_success_is_0_whatever_the_command_returns() -> None:
    assert exit_code(click.Command("x", callback=lambda: "result")) == 0


def test_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(command_that_raises(ZeroDivisionError()), [])


def test_group_ends_alike() -> None:
    group = CommandGroup("db", {"x": command_that_raises(StoreError("locked"))})
    result = CliRunner().invoke(group, ["x"])
    assert (result.exit_code, result.stderr) == (1, "error: locked\n")


@pytest.mark.parametrize("statement", ["click.echo('y' * 1000)", "sys.stdout.write('y' * 50)"])
def test_reader_that_leaves_gets_no_traceback(statement: str) -> None:
    program = (
        "import click, sys\nfrom fl_main.console import run_command\n"
        "print('first', flush=True)\nsys.stdin.read()\n"
        f"run_command(click.Command('x', callback=lambda: {statement}), [])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        process.stdin.close()  # only now it goes on to write
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("fl_main")
    before = root.handlers[:], root.level, ours.level
    root.handlers.clear()  # basicConfig(force=True) closes those it finds
    yield
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])
    root.setLevel(before[1])


@pytest.mark.usefixtures("restored_logging")
def test_text_log_is_one_line_even_if_a_name_holds_a_line_end(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text")
    logging.getLogger("fl_main.aggregator").info("agent joined agent=%s", "a\nERROR \x1b[2J")
    logging.getLogger("fl_main.aggregator").debug("unseen")
    logging.getLogger("websockets").info("unseen")
    stamp, _, rest = capsys.readouterr().err.partition(" ")
    assert len(stamp) == len("2026-01-01T12:00:00")
    assert rest == "INFO fl_main.aggregator agent joined agent=a\\nERROR \\x1b[2J\n"


@pytest.mark.usefixtures("restored_logging")
def test_json_log_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", verbose=True)
    logger = logging.getLogger("fl_main.db")
    logger.debug("committed round=%d", 3)
    try:
        raise StoreError("full")
    except StoreError:
        logger.exception("write failed")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("ts").endswith("Z")
    assert first == {"level": "DEBUG", "logger": "fl_main.db", "message": "committed round=3"}
    assert second["exception"].endswith("StoreError: full")


def test_table_is_aligned_with_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ROWS, {"run": "run", "rounds": "n", "loss": "loss"})
    assert capsys.readouterr().out == "run   n      loss\na    10  0.123457\nbcd   2         –\n"


def test_table_of_nothing_has_its_headings(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([], ["run", "rounds"])
    assert capsys.readouterr().out == "run  rounds\n"


def test_table_on_a_terminal_takes_markup_for_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table([{"run": "[red]a[/red]\n"}], ["run"])
    assert "[red]a[/red]\\n" in capsys.readouterr().out


def test_long_names_are_cut_on_a_terminal_that_is_too_narrow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Row] = [{"agent": "a" * 200, "seen": "x" * 50}, {"agent": "b", "seen": None}]
    columns, whole = ["agent", "seen"], "a" * 200
    print_table(rows, columns)
    assert whole in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    print_table(rows, columns)
    assert capsys.readouterr().out.splitlines()[1] == f"{'a' * 39}…  {'x' * 50}"
    print_table(rows, columns, "csv")
    assert whole in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "300")
    print_table(rows, columns)
    assert whole in capsys.readouterr().out


def test_names_that_would_be_one_stay_whole_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "50")
    print_table([{"run": "r" * 60 + end} for end in "ab"], ["run"])
    shown = capsys.readouterr().out
    assert "r" * 60 + "a" in shown
    assert "r" * 60 + "b" in shown


def test_table_as_json_has_full_values_of_the_chosen_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ROWS, ["run", "loss"], "json")
    assert json.loads(capsys.readouterr().out) == [
        {"run": "a", "loss": 0.123456789},
        {"run": "bcd", "loss": None},
    ]


def test_table_as_csv(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"run": "a,b", "rounds": None}], ["run", "rounds"], "csv")
    assert capsys.readouterr().out == 'run,rounds\n"a,b",\n'


@pytest.mark.parametrize(("args", "output"), [([], None), (["--json"], "json"), (["--csv"], "csv")])
def test_output_options(args: list[str], output: str | None) -> None:
    seen: list[str | None] = []

    @click.command()
    @output_options
    def command(output: str | None) -> None:
        seen.append(output)

    assert CliRunner().invoke(command, args).exit_code == 0
    assert seen == [output]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
@pytest.mark.parametrize("command", [["settings", "table", "run"], ["--help"]])
def test_an_answer_for_which_the_disk_has_no_room_is_one_line_of_error(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fl_main", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "error: cannot write all of the answer: No space left on device; free some space on that disk\n"
    )
