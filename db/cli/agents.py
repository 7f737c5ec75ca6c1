"""`fl db agents`: who takes part in a run."""

from dataclasses import asdict

import click

from fl_main.console import Output, output_options, print_table

from ..model_db import ModelDB
from ..records import Agent
from .common import when, with_database


@click.command()
@click.argument("run", required=False)
@click.option("--present/--absent", "is_present", default=None, help="Only those connected, or those not.")
@click.option("--quarantined", is_flag=True, help="Only those that get no tasks because of their updates.")
@output_options
@with_database
def agents(
    database: ModelDB, run: str | None, is_present: bool | None, quarantined: bool, output: Output | None
) -> None:
    """List everyone who ever joined RUN, in that order.

    `present` is whether an agent was connected when the database was last written; `accepted` and
    `refused` are its updates; `outlying` is in how many rounds in a row, up to the last, they were
    outliers; `quarantined` why it gets no tasks. Columns that say nothing of any agent are left out.
    """
    found = [
        agent
        for agent in database.run(run).agents()
        if (is_present is None or agent.is_present is is_present) and (agent.quarantined or not quarantined)
    ]
    if output in ("json", "csv"):
        rows = [asdict(agent) for agent in found]
        print_table(rows, list(Agent.__dataclass_fields__), output)
        return
    shown = [_row(agent) for agent in found]
    columns = [
        name for name in _COLUMNS if name not in _SOMETIMES or any(row[name] is not None for row in shown)
    ]
    print_table(shown, columns)


_SOMETIMES = frozenset(("poll_s", "outlying", "quarantined", "attributes"))
_COLUMNS = [
    *("agent", "id", "present", "accepted", "refused", "outlying", "quarantined", "poll_s"),
    *("attributes", "joined", "seen", "software"),
]


def _row(agent: Agent) -> dict[str, object]:
    return {
        "agent": agent.name,
        "id": agent.agent_id,
        "present": "yes" if agent.is_present else "no",
        "accepted": agent.accepted,
        "refused": agent.refused,
        "outlying": agent.outlying or None,
        "quarantined": agent.quarantined or None,
        "poll_s": agent.poll_s,
        "attributes": ", ".join(f"{name}={value}" for name, value in agent.attributes.items()) or None,
        "joined": when(agent.joined_at, None),
        "seen": when(agent.seen_at, None),
        "software": agent.software,
    }
