"""`fl agent`: an agent around a training function of the user's."""

import importlib
import importlib.util
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from fl_main.console import configure_logging, print_line
from fl_main.errors import FLError, SettingsError
from fl_main.plugins import find_here
from fl_main.settings import AgentSettings
from fl_main.settings.files import load_agent, read_secret

from .blocking import Agent
from .progress import make_way

logger = logging.getLogger("fl_main.agent")

HANDLERS = ("initial_weights", "evaluate", "statistics", "policy")


@click.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.option(
    "--settings", "file", type=click.Path(path_type=Path), help="Settings file, e.g. setting/agent.yaml."
)
@click.option("--url", help="Where the aggregator listens (overrides the file).")
@click.option("--run", "run_name", help="Run to take part in (overrides the file).")
@click.option("--name", help="Name of this site (overrides the file).")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--verbose", is_flag=True, help="Log in more detail.")
def agent(
    function: str,
    file: Path | None,
    url: str | None,
    run_name: str | None,
    name: str | None,
    log_format: Any,
    verbose: bool,
) -> None:
    """Take part in a run with FUNCTION, which trains: train(task) -> TrainResult.

    MODULE is a package path (package.module) or a file (path/to/train.py). If it also has
    initial_weights, evaluate, statistics or policy, these are used as the agent's. It finds the
    site's name in the environment variable FL_AGENT_NAME.
    """
    given = {"url": url, "run": run_name, "name": name}
    settings = load_agent(file, {key: value for key, value in given.items() if value is not None})
    configure_logging(log_format, verbose)
    for handler in logging.getLogger().handlers:
        handler.addFilter(make_way)
    for number in (signal.SIGINT, signal.SIGTERM):  # also a service manager's, and in a shell's background
        signal.signal(number, signal.default_int_handler)
    if settings.name:  # the module may choose its data by it
        os.environ["FL_AGENT_NAME"] = settings.name
    train, handlers = find_function(function)
    with make_agent(settings, handlers) as running:
        try:
            final = running.run(train, keep_going=settings.keep_going)
        except KeyboardInterrupt:
            logger.info("stopped; the run goes on without this site until it is started again")
            raise
        except FLError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's program may raise anything
            running.close()
            _print_program_part(error)
            sys.exit(1)
    print_line(f"the run {final.status} after round {final.round_id}: {final.reason}")


def _print_program_part(error: Exception) -> None:
    """Print the traceback of a training program's error, without the frames that led into it."""
    trace = error.__traceback__
    while trace is not None and Path(trace.tb_frame.f_code.co_filename).parent == Path(__file__).parent:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace or error.__traceback__)


def make_agent(settings: AgentSettings, handlers: dict[str, Any]) -> Agent:
    """Return an agent as its settings say.

    Args:
        settings: From a file, the environment and the command line.
        handlers: Functions of the site, by the names of `Agent`'s parameters.
    """
    return Agent(
        settings.url,
        settings.run,
        settings.name,
        token=read_secret(settings.token, "token") if settings.token else "",
        attributes=settings.attributes,
        ca_file=settings.ca_file,
        state_folder=settings.state_folder,
        tell_errors=settings.tell_errors,
        progress=settings.progress,
        durability=settings.durability,
        connection=settings.connection,
        poll_s=settings.poll_s,
        **handlers,
    )


def find_function(path: str) -> tuple[Callable[[Any], Any], dict[str, Any]]:
    """Return a training function and the other handlers in its module.

    Args:
        path: `package.module:function` or `path/to/file.py:function`.

    Raises:
        SettingsError: If there is no such module or function.
    """
    place, _, name = path.rpartition(":")
    if not place:
        raise SettingsError(f"{path!r} is not MODULE:FUNCTION, e.g. examples/minimal/train.py:train")
    module = _module(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise SettingsError(f"{place} has no function {name!r}")
    return function, {key: getattr(module, key) for key in HANDLERS if hasattr(module, key)}


def _module(place: str) -> ModuleType:
    find_here()
    if place.endswith(".py") and not Path(place).is_file():
        raise SettingsError(f"there is no file {place}")
    try:
        return _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (ImportError, FileNotFoundError) as error:
        raise SettingsError(f"{place} cannot be imported: {error}") from error


def _module_of_file(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.parent.resolve()))  # as `python path/to/file.py` does
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
