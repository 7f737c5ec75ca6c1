"""An operator's side of the conversation: one order, one answer."""

import asyncio
import getpass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from fl_main.errors import FLError, RefusedError
from fl_main.links import dial
from fl_main.messages import Ask, Operate, Refuse, Reply
from fl_main.ports import Link, LinkClosedError
from fl_main.printable import first_fault
from fl_main.session import Session, Side

PATIENCE_S = 30.0  # with a daemon that does not answer

Order = Literal["status", "why", "create", "stop", "pause", "resume", "quarantine", "release", "rollback"]


class OrderFailedError(FLError):
    """The aggregator could not do what was asked."""


async def ask(
    url: str,
    token: str,
    order: Order,
    *,
    run: str = "",
    ca_file: Path | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Give one order to a daemon and return the content of its answer.

    Args:
        url: Where it listens.
        token: The operator's.
        order: What to do.
        run: The run it is about.
        ca_file: Certificate authority to trust for `wss://`.
        fields: What else `messages.Ask` has for such an order.

    Raises:
        ConnectionFailedError: If it cannot be reached.
        RefusedError: If the token is not the operator's.
        OrderFailedError: If it could not be done.
    """
    question = _question(order, run, fields)
    link = await dial(url, ca_file=ca_file)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await _answer(link, token, question)
    except TimeoutError:
        raise OrderFailedError(f"no answer within {PATIENCE_S:g} s; look at the aggregator's log") from None
    except LinkClosedError as error:
        raise OrderFailedError(f"the aggregator ended the connection: {error}") from error
    finally:
        await link.close()


def _question(order: Order, run: str, fields: dict[str, Any]) -> Ask:
    try:
        return Ask(number=1, order=order, run=run, **fields)
    except ValidationError as error:  # a number that no run can have
        raise OrderFailedError(first_fault(error)) from None


async def _answer(link: Link, token: str, question: Ask) -> dict[str, Any]:
    session = Session(Side.CLIENT)
    await link.send(session.send(Operate(token=token, actor=_actor())))
    await link.send(session.send(question))
    while True:
        message = session.receive(await link.receive())
        if isinstance(message, Refuse):
            raise RefusedError(message.reason, message.code)
        if isinstance(message, Reply):
            if message.error:
                raise OrderFailedError(message.error)
            return message.content


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        return "operator"
