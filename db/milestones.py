"""How a run stood when one of its rounds was over: read from its chain, which keeps every state of it."""

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection

from fl_main.store import Milestone

from .engine import plain
from .rows import Facts
from .snapshots import LayoutOf, models_by_id, past_of

_MADE = """
    SELECT seq, facts FROM events
    WHERE run_id = ? AND record = 'event' AND json_extract(facts, '$.round_id') = ?
        AND json_extract(facts, '$.kind') IN ('initial_model', 'round_done')
    ORDER BY seq LIMIT 1
"""
_SINCE = """
    SELECT record, facts FROM events
    WHERE run_id = ? AND seq > ? AND record IN ('event', 'run') ORDER BY seq
"""


def read(connection: Connection, run_id: str, round_id: int, layout_of: LayoutOf) -> Milestone | None:
    """Return how a run stood when a round was over; None if that round made no model."""
    made = plain(connection).execute(_MADE, (run_id, round_id)).fetchone()
    if made is None:
        return None
    run = _last(_of_round(connection, run_id, made[0], round_id))
    model_id, states = json.loads(made[1])["details"]["model_id"], run["state_ids"]
    return Milestone(
        round_id,
        model_id,
        states,
        run["rounds_done"],
        run["best_model_id"],
        run["best_value"],
        run["best_round"],
        models_by_id(connection, [model_id, *states.values()], layout_of, only_stored=True),
        past_of(connection, run_id),
    )


def _of_round(connection: Connection, run_id: str, seq: int, round_id: int) -> Iterator[Facts]:
    """Yield the run as it was stored, from when a round's model was made until that led to something new.

    What followed at once is stored with the beginning of the next round: the run's row comes last in
    a transaction. With a rollback it is another round's already.
    """
    is_over = False
    for record, text in plain(connection).execute(_SINCE, (run_id, seq)):
        facts: dict[str, Any] = json.loads(text)
        if record == "run":
            yield facts
            if is_over:
                return
        elif facts["kind"] == "run_rolled_back":
            return
        elif facts["kind"] == "step_started" and facts["round_id"] > round_id:
            is_over = True


def _last(states: Iterator[Facts]) -> Facts:
    *_, last = states
    return last
