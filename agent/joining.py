"""Joining: what an agent says of itself on a new connection, and whether it takes part on what it hears."""

import asyncio
from collections.abc import Iterable

from fl_main import __version__
from fl_main.compression import CODECS
from fl_main.compression.words import from_words
from fl_main.digests import DigestAlgorithm
from fl_main.errors import RefusedError, SettingsError
from fl_main.lossless import PACKINGS
from fl_main.messages import Join, Leave, Refuse, Welcome
from fl_main.ports import Link, LinkClosedError, RunInThread
from fl_main.session import Session

from .exchange import Policy, Profile
from .own_model import OwnModel
from .policy import denial_of
from .state_folder import StateFolder
from .welcome import invitation_of, refused

JOIN_S = 30.0  # for the aggregator to answer a join


class Joining:
    """How one agent joins, again on every connection.

    Args:
        profile: Who it is.
        folder: Its state on disk.
        model: What its program gave as initial weights.
        policy: Allows or denies the run.
        run_in_thread: Where the policy is asked.
    """

    def __init__(
        self,
        profile: Profile,
        folder: StateFolder,
        model: OwnModel,
        policy: Policy | None,
        run_in_thread: RunInThread,
    ) -> None:
        self._profile = profile
        self._folder = folder
        self._model = model
        self._policy = policy
        self._run_in_thread = run_in_thread

    async def join(self, link: Link, session: Session, held: Iterable[str]) -> Welcome:
        """Join, and return the answer once this site's policy allows what it invites to.

        Args:
            link: A new connection; `session` begins on it.
            held: The tasks that the agent is at work on, or has the answers to.

        Raises:
            RefusedError: If the aggregator refuses, or this site does.
            LinkClosedError: If there is no answer.
        """
        await link.send(session.send(self._introduction(held)))
        answer = await _answered(link, session)
        if isinstance(answer, Refuse):
            raise refused(answer)
        if denial := await denial_of(self._policy, invitation_of(answer), self._run_in_thread):
            await link.send(session.send(Leave(reason=f"policy: {denial}")))
            await link.close(1000, "policy")
            raise RefusedError(f"this site's policy denied the run: {denial}", "policy")
        _require_codecs(answer)
        return answer

    def _introduction(self, held: Iterable[str]) -> Join:
        profile = self._profile
        return Join(
            run=profile.run,
            agent_id=self._folder.agent_id,
            instance_id=profile.instance_id,
            start_number=profile.start_number,
            name=profile.name,
            token=profile.token,
            attributes=dict(profile.attributes),
            kinds=[str(kind) for kind in profile.kinds],
            rows=self._model.layout.to_wire() if self._model.layout else None,
            held=sorted(held),
            uncounted=self._folder.pending_state(),
            software=f"fl_main {__version__}",
            poll_s=profile.poll_s,
            packings=list(PACKINGS),
            digest_algorithms=list(DigestAlgorithm),
            codecs=sorted(CODECS),
            follows=self._policy is None,  # else that is asked first
            frozen=self._model.facts,
        )


async def _answered(link: Link, session: Session) -> Welcome | Refuse:
    try:
        async with asyncio.timeout(JOIN_S):
            message = session.receive(await link.receive())
            while not isinstance(message, Welcome | Refuse):
                message = session.receive(await link.receive())
            return message
    except TimeoutError:
        raise LinkClosedError(1006, f"no answer to the join within {JOIN_S:g} s") from None


def _require_codecs(welcome: Welcome) -> None:
    try:
        from_words(welcome.codec)
        from_words(welcome.download)
    except SettingsError as error:
        raise RefusedError(f"this site cannot take part in {welcome.run}: {error}", "codec") from error
