"""`fl aggregator`, `fl run`, `fl status`: the daemon and its operators on the command line."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fl_main.console import CommandGroup, Output, configure_logging, output_options, print_line, print_table
from fl_main.errors import SettingsError
from fl_main.plugins import find_here
from fl_main.settings import AggregatorSettings, WebSettings
from fl_main.settings.files import load_aggregator, load_run, read_secret

from .operator import Order, OrderFailedError, ask
from .tokens import operator_token

if TYPE_CHECKING:
    from .app import Aggregator
    from .live import LiveView

logger = logging.getLogger("fl_main.aggregator")

REDRAW_S = 0.25
SETTINGS_HELP = "Settings file; default: setting/aggregator.yaml if it is there."


@click.command()
@click.option("--settings", "file", type=click.Path(path_type=Path), help=SETTINGS_HELP)
@click.option("--host", help="Address to listen on (overrides the file).")
@click.option("--port", type=int, help="Port to listen on, 0 for a free one (overrides the file).")
@click.option("--database", type=click.Path(path_type=Path), help="Database folder (overrides the file).")
@click.option(
    "--run",
    "run_files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Run to begin with; may be given again.",
)
@click.option(
    "--web",
    is_flag=False,
    flag_value="",
    metavar="[HOST:PORT]",
    help="Show the database on a page, too: at 127.0.0.1:8766, or where the file or this says.",
)
@click.option(
    "--insecure", is_flag=True, help="Listen beyond this machine without TLS and token all the same."
)
@click.option("--no-live", is_flag=True, help="Plain log lines, also on a terminal.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--verbose", is_flag=True, help="Log in more detail.")
def aggregator(
    file: Path | None,
    host: str | None,
    port: int | None,
    database: Path | None,
    run_files: tuple[Path, ...],
    web: str | None,
    insecure: bool,
    no_live: bool,
    log_format: Any,
    verbose: bool,
) -> None:
    """Start the daemon that runs rounds; Ctrl-C or SIGTERM ends it in order."""
    # Here, not above: the daemon's parts take longer to load than to ask one.
    from .app import Aggregator
    from .live import LiveView
    from .memory import share_one_arena

    given = {"listen.host": host, "listen.port": port, "database.folder": database, **_web_given(web)}
    settings = load_aggregator(file, {key: value for key, value in given.items() if value is not None})
    if web is not None and settings.web is None:
        settings = settings.model_copy(update={"web": WebSettings()})
    runs = [load_run(path) for path in (*settings.runs, *run_files)]
    is_live = sys.stdout.isatty() and not no_live and log_format == "text"
    configure_logging(log_format, verbose)
    find_here()  # strategies of the user's own
    share_one_arena()
    view = LiveView() if is_live else None
    daemon = Aggregator(settings, runs, insecure=insecure, on_record=view.take if view else None)
    _loop_runner()(_serve(daemon, view))


def _web_given(web: str | None) -> dict[str, object]:
    """Return what `--web HOST:PORT` overrides."""
    if not web:
        return {}
    host, colon, port = web.rpartition(":")
    if not colon or not port.isdecimal():
        raise SettingsError(f"--web: {web!r} is not HOST:PORT, as in 127.0.0.1:8766")
    return {"web.host": host.strip("[]"), "web.port": int(port)}


def _loop_runner() -> Callable[[Any], Any]:
    """Return uvloop's runner where the extra `fast` is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run  # type: ignore[no-any-return]


async def _serve(daemon: "Aggregator", view: "LiveView | None") -> None:
    """Run the daemon until it is told to stop: once in order, twice at once."""
    from .notify import Notifier

    stop = asyncio.Event()

    def told() -> None:
        if stop.is_set():
            logger.warning("stopped at once")
            os._exit(130)
        stop.set()

    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, told)
    async with daemon, Notifier(daemon.daemon, daemon.writer_busy_s, daemon.settings.limits.stop_s):
        if view is None:
            await stop.wait()
        else:
            with view.shown(daemon.daemon) as draw:
                while not stop.is_set():
                    draw()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), REDRAW_S)
                draw()
        logger.info("stopping; once more to stop at once")
    if daemon.is_busy:
        _leave()


def _leave() -> None:
    """End the process without waiting for its threads, as Python's own end would."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


# --- operators ---------------------------------------------------------------------------


def operator_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that find a daemon and prove that one may steer it."""
    for option in (
        click.option(
            "--settings", "file", type=click.Path(path_type=Path), help="The daemon's settings file."
        ),
        click.option("--url", envvar="FL_URL", help="Where the daemon listens (overrides the file)."),
        click.option(
            "--database",
            type=click.Path(path_type=Path),
            help="Its database folder, where the operator's token lies.",
        ),
        click.option("--ca-file", type=click.Path(path_type=Path), help="Certificate authority for wss://."),
    ):
        command = option(command)
    return command


def ask_daemon(
    order: Order,
    file: Path | None,
    url: str | None,
    database: Path | None,
    ca_file: Path | None,
    **fields: Any,
) -> dict[str, Any]:
    """Ask the daemon that the options of `operator_options` name."""
    settings = load_aggregator(file, {"database.folder": database} if database else {})
    target = url or _url(settings)
    return asyncio.run(ask(target, _token(settings), order, ca_file=ca_file, **fields))


def _url(settings: AggregatorSettings) -> str:
    listen = settings.listen
    host = "127.0.0.1" if listen.host in ("0.0.0.0", "::") else listen.host
    return f"{'wss' if settings.tls else 'ws'}://{host}:{listen.port}{listen.path.rstrip('/')}"


def _token(settings: AggregatorSettings) -> str:
    """Return the operator's token: of the environment, the settings, or the database folder."""
    if token := os.environ.get("FL_OPERATOR_TOKEN"):
        return token
    if settings.operator_token is not None:
        return read_secret(settings.operator_token, "operator_token")
    try:
        return operator_token(settings.database.folder)
    except OSError as error:
        raise SettingsError(f"{error.filename}: {error.strerror}; or set FL_OPERATOR_TOKEN") from error


@click.command()
@operator_options
@click.option("--json", "as_json", is_flag=True, help="Print everything, as JSON.")
@click.option("--watch", is_flag=True, help="Look again every second until Ctrl-C.")
def status(as_json: bool, watch: bool, **target: Any) -> None:
    """Show what a daemon is doing and what it waits for."""
    while True:
        found = ask_daemon("status", **target)
        if watch and sys.stdout.isatty():
            click.clear()
        click.echo(json.dumps(found, indent=2)) if as_json else _print_status(found)
        if not watch:
            return
        asyncio.run(asyncio.sleep(1.0))


def _print_status(found: Mapping[str, Any]) -> None:
    agents, runs = found["agents"], len(found["runs"])
    counts = f"{agents} agent{'s' * (agents != 1)} connected, {runs} run{'s' * (runs != 1)}"
    print_line(f"{found['software']} at {found['url']}: {counts}")
    for run in found["runs"]:
        click.echo()
        _print_run(run)


def _print_run(run: Mapping[str, Any]) -> None:
    best = run["best"]
    print_line(
        f"run {run['run']}: {run['status']}, {run['rounds_done']} of {run['rounds']} rounds"
        + (f", best {best['metric']} {best['value']:.6g}" if best["value"] is not None else "")
    )
    print_line(f"  {run['waiting_for']}")
    print_line(f"  {_effort(run)}")
    if travel := _travel(run["travel"]):
        print_line(f"  {travel}")
    rows = [
        {
            "agent": agent["name"],
            "here": "yes" if agent["present"] else "no",
            "doing": agent["doing"],
            "for": _duration(agent["since_s"]),
        }
        for agent in run["agents"]
    ]
    if rows:
        print_table(rows, {"agent": "AGENT", "here": "HERE", "doing": "DOING", "for": "FOR"})


def _effort(run: Mapping[str, Any]) -> str:
    """Say what the agents' time went into, and how old what they sent was."""
    spent = run["effort"]
    text = f"mode {run['mode']}; agents' time since the last round: "
    text += ", ".join(f"{what} {_duration(spent[f'{what}_s'])}" for what in ("busy", "idle", "wasted"))
    if (late := run["staleness"]) and late["max"]:
        text += f"; staleness of the last round {late['mean']:.1f}, at most {late['max']:.0f}"
    return text


def _travel(travel: Mapping[str, Any]) -> str:
    """Say how weights travel, unless it is as they are."""
    said = []
    if travel["codec"]:
        feedback = ", with error feedback" if travel["feeds_back"] else ""
        way = f"as {travel['form']}, encoded by {travel['codec']}{feedback}"
        said.append(f"updates travel {way}{_instead(travel, 'update_bytes')}")
    elif travel["form"] != "full":
        said.append(f"updates travel as {travel['form']}")
    if travel["download"]:
        said.append(f"models travel encoded by {travel['download']}{_instead(travel, 'download_bytes')}")
    return "; ".join(said)


def _instead(travel: Mapping[str, Any], what: str) -> str:
    if travel[what] is None:
        return ""
    return f": {_size(travel[what])} instead of {_size(travel['plain_bytes'])}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


@click.group(cls=CommandGroup)
def run() -> None:
    """Create, list, show, pause, stop, resume and roll back runs of a daemon, or leave agents out of them."""


@run.command()
@click.argument("settings_file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--from",
    "model",
    metavar="MODEL",
    default="",
    help="Begin with a model of the daemon's database: an id, the beginning of an id or digest, or "
    "run:ROUND, run:best, run:final, run:last, run:TAG.",
)
@click.option("--name", default="", help="The new run's name (overrides the file).")
@operator_options
def create(settings_file: Path | None, model: str, name: str, **target: Any) -> None:
    """Create the run that FILE describes, and start it.

    With --from it begins with a stored model; without FILE its settings are then those of the
    run that made that model, and its name is that run's with a number.
    """
    if settings_file is None and not model:
        raise click.UsageError("give a FILE with the run's settings, or a model with --from")
    given = {"name": name} if name else {}
    settings = load_run(settings_file, given).model_dump(mode="json") if settings_file else {}
    found = ask_daemon("create", run=name, about=model, settings=settings, **target)
    print_line(f"run {found['run']} is {found['status']}; it {found['waiting_for']}")


@run.command("list")
@operator_options
@output_options
def list_runs(output: Output | None, **target: Any) -> None:
    """List the runs of a daemon."""
    rows = [
        {**run, "rounds": f"{run['rounds_done']}/{run['rounds']}"}
        for run in ask_daemon("status", **target)["runs"]
    ]
    print_table(rows, ["run", "status", "phase", "rounds", "waiting_for"], output)


@run.command()
@click.argument("name", metavar="RUN")
@operator_options
def show(name: str, **target: Any) -> None:
    """Show one run of a daemon."""
    runs = {run["run"]: run for run in ask_daemon("status", **target)["runs"]}
    if name not in runs:
        raise OrderFailedError(f"there is no run {name!r} (runs: {', '.join(sorted(runs)) or 'none yet'})")
    _print_run(runs[name])


def _steering(order: Order, text: str) -> None:
    @run.command(order, help=text)
    @click.argument("name", metavar="RUN")
    @operator_options
    def steer(name: str, **target: Any) -> None:
        found = ask_daemon(order, run=name, **target)
        print_line(
            f"run {found['run']} is {found['status']}" + (f": {found['reason']}" if found["reason"] else "")
        )


def _isolating(order: Order, text: str) -> None:
    @run.command(order, help=text)
    @click.argument("name", metavar="RUN")
    @click.argument("agent", metavar="AGENT")
    @operator_options
    def isolate(name: str, agent: str, **target: Any) -> None:
        found = ask_daemon(order, run=name, about=agent, **target)
        chosen = next(one for one in found["agents"] if agent in (one["name"], one["agent_id"]))
        said = f"in quarantine: {chosen['quarantined']}" if chosen["quarantined"] else "free to take part"
        print_line(f"agent {chosen['name']} of run {found['run']} is {said}")


@run.command()
@click.argument("name", metavar="RUN")
@click.option("--to", "round_id", required=True, type=click.IntRange(0), help="Round to go on from.")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    help="How many rounds are to follow; default: what is left of the run's settings then.",
)
@click.option("--reason", default="", help="Why, in a sentence: it stays with the run.")
@click.option("--fresh-state", is_flag=True, help="Let the strategy begin without what it kept (momenta, …).")
@operator_options
def rollback(
    name: str, round_id: int, rounds: int | None, reason: str, fresh_state: bool, **target: Any
) -> None:
    """Let RUN go on from the model of an earlier round, whether it is running or over.

    Nothing is deleted: the rounds after it stay in the database, and the next one has the next
    number. Updates that were not counted yet are discarded, and agents forget what they kept.
    """
    found = ask_daemon(
        "rollback",
        run=name,
        to=round_id,
        rounds=rounds,
        reason=reason,
        fresh_state=fresh_state,
        **target,
    )
    done = f"{found['rounds_done']} of {found['rounds']} rounds"
    print_line(f"run {found['run']} goes on from round {round_id}, {done} done; it is {found['status']}")


_steering("stop", "End a run now; what it made so far stays.")
_steering("pause", "Let a run's time stand still; updates are still taken.")
_steering("resume", "Let a paused, stopped or failed run go on.")
_isolating("quarantine", "Leave AGENT (its name or id) out of RUN: it gets no tasks until it is released.")
_isolating("release", "Let AGENT take part in RUN again.")
