"""What is told while it goes on, and kept for whoever looks into a failure."""

import time
from collections import Counter
from pathlib import Path


class Story:
    """Lines with the time, on the screen and in a file.

    Attributes:
        kills: Processes killed so far, by kind and by what they were doing.
        faults: How often each other fault was made.
        problems: What must not be, a line each.
    """

    def __init__(self, file: Path) -> None:
        self.kills: Counter[tuple[str, str]] = Counter()
        self.faults: Counter[str] = Counter()
        self.problems: list[str] = []
        self._file = file
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def killed(self) -> int:
        return sum(self.kills.values())

    def tell(self, text: str) -> None:
        """Tell a line, with the time and the kills so far before it."""
        line = f"{self.seconds:7.1f} s {self.killed:4d} kills  {text}"
        print(line, flush=True)
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def kill(self, kind: str, name: str, moment: str, how: str = "") -> None:
        """Tell of a kill and count it."""
        self.kills[kind, moment] += 1
        self.tell(f"killed {name}: {moment}{how}")

    def fault(self, kind: str, text: str) -> None:
        """Tell of another fault and count it."""
        self.faults[kind] += 1
        self.tell(text)

    def problem(self, text: str) -> None:
        """Tell of what must not be."""
        if text not in self.problems:
            self.problems.append(text)
            self.tell(f"WRONG: {text}")
