"""What heavy answers may take: few at once, of few bytes, and what does not change is worked out once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

from fastapi import HTTPException

AT_ONCE = 2  # that read model files
WAITING = 4  # that wait for it; they hold threads, which other questions need, too
PATIENCE_S = 20.0  # that they wait
MOST_BYTES = 2 << 30  # of a model whose values are looked at: some seconds
MOST_READ_BYTES = 256 << 20  # of models that one question about a run's updates reads
KEPT = 128  # answers about single models

_T = TypeVar("_T")


class Heavy:
    """Works out answers from model files, and keeps them: what a digest names never changes."""

    def __init__(self) -> None:
        self._asking = 0
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._known: OrderedDict[Hashable, object] = OrderedDict()
        self._knowing = threading.Lock()

    @property
    def asking(self) -> int:
        """How many are at work or wait."""
        return self._asking

    def once(self, key: Hashable, work: Callable[[], _T]) -> _T:
        """Return what `work` returned for the same key before, or now."""
        with self._knowing:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]  # type: ignore[return-value] # a key has answers of one type
        found = self.now(work)
        with self._knowing:
            self._known[key] = found
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return found

    def now(self, work: Callable[[], _T]) -> _T:
        """Return what `work` returns, once there is a place for it.

        Raises:
            HTTPException: If too many wait already, or others are at work for too long.
        """
        with self._knowing:
            if self._asking >= AT_ONCE + WAITING:
                raise _busy()
            self._asking += 1
        try:
            if not self._places.acquire(timeout=PATIENCE_S):
                raise _busy()
            try:
                return work()
            finally:
                self._places.release()
        finally:
            with self._knowing:
                self._asking -= 1


def _busy() -> HTTPException:
    return HTTPException(503, "others ask for as much already; ask again later", {"Retry-After": "5"})


def require_size(nbytes: int) -> None:
    """Refuse to read a model that would take too long.

    Raises:
        HTTPException: If it would.
    """
    if nbytes > MOST_BYTES:
        most = f"{MOST_BYTES >> 20} MiB are read here at most"
        raise HTTPException(422, f"the model has {nbytes >> 20} MiB; {most}; see `fl db stats`")
