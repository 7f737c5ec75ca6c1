"""A strategy of a user's own whose fold lasts until somebody lets it end."""

from pathlib import Path

from fl_main.strategies import Block, FedAvg
from tests.system.daemons import until


class Slow(FedAvg):
    """A mean that waits in one of its blocks until there is a file `gate` in the folder.

    Each fold that comes so far adds a line to the file `folds` there.
    """

    def __init__(self, folder: str, block: int = 2) -> None:
        super().__init__()
        self._folder = Path(folder)
        self._left = block

    def combine(self, block: Block) -> None:
        super().combine(block)
        self._left -= 1
        if self._left == 0:
            with open(self._folder / "folds", "a") as file:
                file.write("a fold\n")
            until((self._folder / "gate").exists, "for the gate", patience_s=120)
