"""Who has to go when there are too many, or when they have too much in memory."""

from fl_main import gate
from fl_main.gate import SHARE_BYTES, Gate


class Caller:
    def __init__(self, name: str, network: str = "10.0.0.1") -> None:
        self.name = name
        self.network = network
        self.dropped = ""

    def drop(self, reason: str) -> None:
        self.dropped = reason


def entered(at: Gate, *names: str, network: str = "10.0.0.1") -> list[Caller]:
    callers = [Caller(name, network) for name in names]
    for caller in callers:
        at.enter(caller)
    return callers


def test_oldest_stranger_goes_never_the_newcomer() -> None:
    first, second, third = entered(Gate(2, 100, 0), "first", "second", "third")
    assert first.dropped == "too many connections have not said who they are; try again"
    assert not second.dropped
    assert not third.dropped


def test_network_with_the_most_strangers_makes_room() -> None:
    at = Gate(4, 100, 0)
    (alone,) = entered(at, "alone", network="10.9.9.9")
    crowd = entered(at, *"abcdefgh")
    assert [caller.name for caller in crowd if caller.dropped] == list("abcde")
    assert not alone.dropped


def test_agents_do_not_count_as_strangers_and_are_not_dropped_for_them() -> None:
    at = Gate(1, 100, 0)
    agents = []
    for name in "abc":
        agents += entered(at, name)
        at.trust(agents[-1], lambda: 0)
    entered(at, "x", "y")
    assert not any(agent.dropped for agent in agents)
    assert (at.strangers, at.connections) == (1, 4)


def test_where_descriptors_are_scarce_strangers_go_and_then_newcomers() -> None:
    at = Gate(100, 2, 0)
    (agent,) = entered(at, "agent")
    at.trust(agent, lambda: 0)
    older, newer = entered(at, "older", "newer")
    assert older.dropped
    at.trust(newer, lambda: 0)
    (late,) = entered(at, "late")
    assert late.dropped
    assert (at.strangers, at.connections) == (0, 2)


def test_stranger_with_the_most_in_memory_goes() -> None:
    at = Gate(10, 100, 0)
    small, large, newest = entered(at, "small", "large", "newest")
    at.account(small, 1000)
    at.account(large, gate.STRANGER_BYTES - 1000)
    assert not large.dropped
    at.account(newest, 1)
    assert "more than there is room for" in large.dropped
    at.account(small, gate.STRANGER_BYTES - 1)
    assert not small.dropped


def test_agent_with_the_most_beyond_its_credit_goes() -> None:
    at = Gate(10, 100, 1 << 20)
    greedy, granted = entered(at, "greedy", "granted")
    at.trust(greedy, lambda: 0)
    at.trust(granted, lambda: 1 << 20)
    at.account(granted, 1 << 20)
    at.account(greedy, 2 * SHARE_BYTES)
    assert not greedy.dropped
    at.account(greedy, 2 * SHARE_BYTES + 1)
    assert greedy.dropped
    assert not granted.dropped


def test_who_left_is_forgotten() -> None:
    at = Gate(2, 100, 0)
    gone, here = entered(at, "gone", "here")
    at.account(gone, gate.STRANGER_BYTES)
    at.leave(gone)
    at.leave(gone)
    at.account(gone, gate.STRANGER_BYTES)
    at.trust(gone, lambda: 0)
    at.account(here, gate.STRANGER_BYTES)
    entered(at, "third")
    assert not here.dropped
    assert at.connections == 2


def test_everybody_goes_at_the_end() -> None:
    at = Gate(2, 100, 0)
    agent, stranger = entered(at, "agent", "stranger")
    at.trust(agent, lambda: 0)
    at.close("stopping")
    assert (agent.dropped, stranger.dropped, at.connections) == ("stopping", "stopping", 0)
