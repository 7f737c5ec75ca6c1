"""Bytes that would travel between sites and a daemon."""

from dataclasses import dataclass, field

from fl_main.store import StoredPayload


@dataclass(slots=True)
class Traffic:
    """What sites sent, and what they were sent.

    Attributes:
        up: Bytes that sites sent so far.
        down: Bytes that they were sent.
    """

    up: int = 0
    down: int = 0
    _held: dict[str, str] = field(default_factory=dict)  # digest of the model that each site fetched last
    _told: tuple[int, int] = 0, 0

    def fetch(self, site: str, payload: StoredPayload) -> None:
        """Let a site have a model, if it does not have it."""
        if self._held.get(site) != payload.digest:
            self._held[site] = payload.digest
            self.down += payload.size

    def since(self) -> tuple[int, int]:
        """Return bytes up and down since this was asked last."""
        before, self._told = self._told, (self.up, self.down)
        return self.up - before[0], self.down - before[1]
