"""`fl db events`: what happened when."""

import json

import click

from fl_main.console import Output, output_options, print_table

from ..model_db import ModelDB
from ..records import Event
from .common import agent_option, agents_of, last_option, latest, since_option, when, with_database


@click.command()
@click.argument("run", required=False)
@click.option("--kind", "kinds", multiple=True, help="Only of this kind, e.g. round_done; may be repeated.")
@click.option("--round", "round_id", type=int, help="Only of this round.")
@agent_option
@since_option("what happened")
@last_option("the latest")
@click.option("--daemon", is_flag=True, help="Those of the daemon, which belong to no run.")
@output_options
@with_database
def events(
    database: ModelDB,
    run: str | None,
    kinds: tuple[str, ...],
    round_id: int | None,
    agent: str | None,
    since: float | None,
    last: int | None,
    daemon: bool,
    output: Output | None,
) -> None:
    """List what happened in RUN, in order: who came and left, what was decided, and by whom.

    `docs/why.md` lists the kinds of events. Every record that was ever stored is in the same chain:
    `fl db verify` holds them to it.
    """
    if daemon and (run is not None or agent is not None or round_id is not None):
        raise click.UsageError("--daemon goes with no RUN, --agent or --round: its events belong to none")
    if daemon:
        names, found = {}, database.events(since=since)
    else:
        chosen = database.run(run)
        names = chosen.agent_names()
        wanted = None if agent is None else agents_of(names, agent)
        found = [
            event
            for event in chosen.events(round_id=round_id, since=since)
            if wanted is None or event.agent_id in wanted
        ]
    found = latest([event for event in found if not kinds or event.kind in kinds], last)
    columns = [*("at", "kind", "round", "agent", "actor", "details"), *(["seq"] if output else [])]
    print_table([_row(event, names, output) for event in found], columns, output)


def _row(event: Event, names: dict[str, str], output: Output | None) -> dict[str, object]:
    agent = names.get(event.agent_id or "", event.agent_id)
    return {
        "at": when(event.at, output),
        "kind": event.kind,
        "round": event.round_id,
        "agent": agent,
        # An agent acts for itself by its id; who reads it knows its name.
        "actor": names.get(event.actor, event.actor) or None,
        "details": _details(event, output),
        "seq": event.seq,
    }


def _details(event: Event, output: Output | None) -> object:
    if output == "json":
        return dict(event.details)
    if output == "csv":
        return json.dumps(dict(event.details), ensure_ascii=False)
    return ", ".join(f"{name}={value}" for name, value in event.details.items()) or None
