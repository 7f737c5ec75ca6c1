"""The short form of the fuzzing of an agent by a hostile aggregator."""

import pytest

from fl_main.agent.client import Client
from fl_main.messages import Message
from fuzz import agent

SEED = 1


def test_no_aggregator_crashes_an_agent_or_lets_it_hang() -> None:
    facts = agent.fuzz(250, SEED)
    assert facts["inputs"] >= 250
    assert {"closed by us", "closed by the agent (1002)"} <= facts["outcomes"].keys()


def test_agent_that_crashes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(client: Client, message: Message) -> None:
        raise KeyError(message.type)

    monkeypatch.setattr(Client, "_take", broken)
    with pytest.raises(Exception, match="bug of ours"):
        agent.fuzz(2000, SEED)
