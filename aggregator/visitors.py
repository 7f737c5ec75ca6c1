"""Which process of an agent that polls came last.

Two processes of one agent that stay connected meet at the door, and the newer one is kept. Those
that poll may never meet: their visits are remembered instead.
"""

from fl_main.messages import Join

MAX_REMEMBERED = 8  # processes of one agent


class Visitors:
    """The processes of agents that poll, by (run, agent id), in the order in which they first came."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], dict[str, int]] = {}

    def note(self, join: Join) -> None:
        """Remember who was let in, if it is an agent that polls."""
        if join.poll_s is None:
            return
        known = self._known.setdefault((join.run, join.agent_id), {})
        known.setdefault(join.instance_id, join.start_number)
        if len(known) > MAX_REMEMBERED:
            del known[next(iter(known))]

    def is_outdated(self, join: Join, *, is_here: bool) -> bool:
        """Whether a newer process of the same agent came before.

        Args:
            join: Of who wants to come in.
            is_here: Whether the agent is taken for present: its last process may come again.
        """
        known = self._known.get((join.run, join.agent_id))
        if not known:
            return False
        last = next(reversed(known))
        if join.instance_id in known:
            return join.instance_id != last
        return is_here and known[last] > join.start_number
