"""A site's own say in what it takes part in: asked before anything is sent."""

import logging

from fl_main.messages import Assign
from fl_main.ports import RunInThread

from .exchange import Invitation, Policy

logger = logging.getLogger("fl_main.agent")


async def denial_of(policy: Policy | None, subject: Invitation | Assign, run_in_thread: RunInThread) -> str:
    """Return why the site's policy denies something, or an empty text."""
    if policy is None:
        return ""
    try:
        answer = await run_in_thread(policy, subject)
    except Exception as error:  # what the policy cannot judge is not allowed
        logger.exception("the policy failed")
        return f"the policy failed: {type(error).__name__}"
    if answer is None or answer is True:
        return ""
    return answer if isinstance(answer, str) else "denied"
