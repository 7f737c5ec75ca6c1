"""What needs no question: new small models, and small updates out of a part of the receive budget."""

import numpy as np
import pytest

from fl_main.aggregator.ahead import Ahead
from fl_main.aggregator.uploads import EARLY_PART, SMALL_BYTES, Budget
from fl_main.messages import Assign, Offer, Payload
from fl_main.weights import Layout

LAYOUT = Layout.of({"w": np.zeros(1000, np.float32)})
SIZE = 4000
TASK, OTHER = "a" * 24, "b" * 24


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def payload(number: int, size: int = SIZE, **fields: object) -> Payload:
    return Payload(layout=LAYOUT.digest, digest=digest(number), size=size, **fields)  # type: ignore[arg-type]


def assign(*payloads: Payload, task_id: str = TASK, kind: str = "train") -> Assign:
    return Assign(task_id=task_id, kind=kind, round_id=1, payloads=list(payloads))


def offer(*payloads: Payload, task_id: str = TASK) -> Offer:
    return Offer(task_id=task_id, payloads=list(payloads), num_examples=1)


def budget(total: int = 64 << 20) -> Budget:
    return Budget(total, lambda: 0.0)


def ahead(*known: int, of: Budget | None = None, takes_models: bool = True) -> Ahead:
    known_digests = {digest(number) for number in known}
    return Ahead(takes_models=takes_models, known=known_digests, layout=LAYOUT, budget=of or budget())


def followed(said: Assign) -> list[bool]:
    return [payload.follows for payload in said.payloads]


def test_small_model_that_the_agent_cannot_have_follows_its_task() -> None:
    of_agent = ahead(1)
    assert followed(of_agent.said(assign(payload(1), payload(2)), LAYOUT)) == [False, True]
    assert followed(of_agent.said(assign(payload(2), payload(3)), LAYOUT)) == [False, True]
    assert followed(of_agent.said(assign(payload(1)), LAYOUT)) == [True]  # it was forgotten meanwhile


def test_model_does_not_follow_if_it_is_large_said_twice_or_the_agent_does_not_take_it() -> None:
    assert followed(ahead().said(assign(payload(1, SMALL_BYTES + 1)), LAYOUT)) == [False]
    assert followed(ahead().said(assign(payload(1), payload(1)), LAYOUT)) == [True, False]
    assert followed(ahead(takes_models=False).said(assign(payload(1)), LAYOUT)) == [False]


def test_layout_is_described_until_it_was() -> None:
    unknown = Ahead(takes_models=True, known=(), layout=None, budget=budget())
    assert not ahead().needs_rows(LAYOUT, "weights")
    assert unknown.needs_rows(LAYOUT, "statistics")  # of which an agent remembers nothing
    assert unknown.needs_rows(LAYOUT, "weights")
    assert not unknown.needs_rows(LAYOUT, "weights")


def test_answer_to_a_training_task_is_granted_what_the_model_has() -> None:
    of_agent = ahead()
    assert of_agent.said(assign(), LAYOUT).credit == of_agent.granted == SIZE
    assert of_agent.said(assign(kind="evaluate"), LAYOUT).credit == 0
    assert of_agent.said(assign(), None).credit == 0
    large = Layout.of({"w": np.zeros(SMALL_BYTES + 1, np.int8)})
    assert of_agent.said(assign(), large).credit == 0


def test_early_grants_are_a_part_of_the_budget_and_come_back() -> None:
    whole = budget(2 * EARLY_PART * SIZE)
    first, second, third = (ahead(of=whole) for _ in range(3))
    assert [of_agent.said(assign(), LAYOUT).credit for of_agent in (first, second, third)] == [SIZE, SIZE, 0]
    assert first.said(assign(task_id=OTHER), LAYOUT).credit == SIZE  # in place of the one before
    first.give_back()
    first.give_back()
    assert third.said(assign(), LAYOUT).credit == SIZE
    for of_agent in (second, third):
        of_agent.give_back()
    assert whole.take_early(2 * SIZE)


@pytest.mark.parametrize(
    ("said", "granted"),
    [
        (offer(payload(9, follows=True)), SIZE),
        (offer(payload(9, 400, follows=True)), SIZE),
        (offer(payload(9, SIZE + 8, follows=True)), 0),
        (offer(payload(9, 0, follows=True)), 0),
        (offer(payload(9, 8, follows=True), payload(8, 8, follows=True)), 0),
        (offer(payload(9, follows=True), task_id=OTHER), 0),
    ],
)
def test_grant_is_for_the_only_payload_of_that_task(said: Offer, granted: int) -> None:
    of_agent = ahead()
    of_agent.said(assign(), LAYOUT)
    assert of_agent.claimed(said) == granted
    assert of_agent.claimed(said) == 0
