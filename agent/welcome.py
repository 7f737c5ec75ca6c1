"""What an aggregator's answer to a join comes to: an invitation, or why there is none."""

from fl_main.digests import DigestAlgorithm
from fl_main.errors import FencedError, RefusedError, RemoteProtocolError
from fl_main.messages import Refuse, Welcome

from .exchange import Invitation


class OnlySomeArraysError(RefusedError):
    """The run trains only some arrays, and wants to hear of the others.

    Attributes:
        arrays: Shell wildcards of the names of those that it trains.
    """

    def __init__(self, refuse: Refuse) -> None:
        super().__init__(refuse.reason, refuse.code)
        self.arrays = refuse.arrays


def refused(refuse: Refuse) -> RefusedError:
    """Return a refusal as an error."""
    if refuse.arrays:
        return OnlySomeArraysError(refuse)
    kind = FencedError if refuse.code == "fenced" else RefusedError
    return kind(refuse.reason, refuse.code, is_lasting=refuse.lasting, retry_s=refuse.retry_s)


def invitation_of(welcome: Welcome) -> Invitation:
    """Return what a site's policy is asked about."""
    return Invitation(
        welcome.run,
        welcome.purpose,
        welcome.settings_digest,
        tuple(welcome.kinds),
        welcome.stores_local_models,
        welcome.form,
        welcome.codec,
        welcome.feeds_back,
        welcome.download,
    )


def algorithm_of(welcome: Welcome) -> DigestAlgorithm:
    """Return what the aggregator names model files by.

    Raises:
        RemoteProtocolError: If this agent cannot compute it.
    """
    try:
        return DigestAlgorithm(welcome.digest_algorithm)
    except ValueError:
        reason = f"model files named by {welcome.digest_algorithm!r} digests, which this agent cannot compute"
        raise RemoteProtocolError(reason) from None


def on_the_way(welcome: Welcome) -> str:
    """Say how weights travel in a run, unless it is as they are."""
    updates = f"updates travel as {welcome.form}" if welcome.form != "full" else ""
    if welcome.codec:
        updates = f"updates travel as {welcome.form}, encoded by {welcome.codec}"
        updates += ", with error feedback" if welcome.feeds_back else ""
    models = f"models come encoded by {welcome.download}" if welcome.download else ""
    return "; ".join(filter(None, (updates, models)))
