"""Arrays in memory by their digests, as a daemon has them in the files of its store."""

from collections.abc import Container, Mapping
from typing import Any

from fl_main.digests import DigestAlgorithm, file_digest, tagged
from fl_main.sources import Memory
from fl_main.store import StoredPayload
from fl_main.weights import Layout, as_arrays, pack


class Files:
    """Where a local run keeps what its round machine refers to; a fold reads and writes here, too.

    See `fl_main.folding.Files`.
    """

    def __init__(self) -> None:
        self._held: dict[str, Memory] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, digest: str) -> Memory:
        return self._held[digest]

    def keep(self, memory: Memory, channel: str = "weights") -> StoredPayload:
        """Keep arrays under their digest; they must not change any more."""
        digest = file_digest(memory.layout, DigestAlgorithm.BLAKE3)
        digest.update(memory.data)
        name = tagged(digest)
        self._held[name] = memory
        return StoredPayload(channel, name, len(memory.data), memory.layout)

    def keep_arrays(self, values: Mapping[str, Any], channel: str = "weights") -> StoredPayload:
        """Keep what would leave a site, all but its private arrays: they have the roles that they know.

        Raises:
            WeightsError: If these are no arrays that can travel.
        """
        arrays, known = as_arrays(values), getattr(values, "roles", {})
        layout = Layout.of(arrays, {n: r for n, r in known.items() if n in arrays}).without_private()
        return self.keep(Memory(layout, pack(arrays, layout)), channel)

    def drop_others(self, used: Container[str]) -> None:
        """Let go of all but what has one of these digests."""
        self._held = {digest: memory for digest, memory in self._held.items() if digest in used}

    def stage(self, name: str, layout: Layout) -> "_Staged":
        """Make room for what a fold writes."""
        return _Staged(name, layout, self)

    def read(self, digest: str, layout: Layout) -> Memory:
        """Return what is kept under a digest."""
        return self._held[digest]


class _Staged(Memory):
    """What a fold writes; see `fl_main.folding.Staging`."""

    def __init__(self, name: str, layout: Layout, files: Files) -> None:
        super().__init__(layout)
        self.name = name
        self._files = files

    def finish(self) -> str:
        """Keep it; return its digest."""
        return self._files.keep(Memory(self.layout, self.data)).digest
