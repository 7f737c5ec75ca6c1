"""What a site writes down about itself: a record that owes nothing to the code under test.

One JSON object a line, on the disk before the site goes on. The driver adds `killed` once the
process is dead, so that the order of the lines is the order of what happened.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl_main.weights import Array

Fact = dict[str, Any]


class Journal:
    """Facts are appended by whoever lives at the moment."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, fact: str, **details: Any) -> None:
        """Append a fact; it is on the disk when this returns."""
        line = json.dumps({"fact": fact, **details}).encode() + b"\n"
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, line)  # one call, so a killed process leaves all of it or nothing
            os.fsync(file)
        finally:
            os.close(file)

    def facts(self) -> list[Fact]:
        """Return everything so far."""
        return (
            [json.loads(line) for line in self.path.read_bytes().splitlines()] if self.path.exists() else []
        )

    def last(self) -> Fact:
        """Return the newest fact."""
        return (self.facts() or [{"fact": "nothing"}])[-1]


def fingerprint(arrays: Mapping[str, Array]) -> str:
    """Return a digest of names, types, shapes and bytes; not that of the project."""
    digest = hashlib.blake2b(digest_size=20)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
