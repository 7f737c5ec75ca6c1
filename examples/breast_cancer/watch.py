"""What happens in a run, shown while it happens: read from the model database."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from processes import PATIENCE_S, DemoError, Processes
from rich.console import Console
from rich.live import Live
from rich.table import Table

from fl_main.db import Mean, ModelDB, Round

HEADINGS = ("round", "agents", "train loss", "loss", "accuracy", "bytes", "seconds")


def follow(db: ModelDB, name: str, processes: Processes) -> None:
    """Show the rounds of a run until it is over.

    Raises:
        DemoError: If a process ended before, or nothing happens any more.
    """
    shown, patient_until = 0, time.monotonic() + PATIENCE_S
    with _table() as add:
        while True:
            ended = processes.check()  # before the look at the run: they end when it is over
            run = db.run(name)
            if ended and not run.status.is_over:
                raise processes.failure(ended[0], "ended before the run was over")
            rounds = [entry for entry in run.rounds() if entry.round_id > 0]
            # A round is complete once its model was measured, or else once the next one began.
            complete = [r for r in rounds if r.evaluate or run.status.is_over or r is not rounds[-1]]
            for entry in complete[shown:]:
                add(_cells(entry))
                patient_until = time.monotonic() + PATIENCE_S
            shown = len(complete)
            if run.status.is_over:
                return
            if failed := [entry for entry in rounds if entry.status == "failed"]:
                raise DemoError(f"round {failed[0].round_id} failed: {failed[0].reason}")
            if time.monotonic() > patient_until:
                raise DemoError(
                    f"no round ended within {PATIENCE_S:.0f} s; the last begun is {run.facts.round_id}"
                )
            time.sleep(0.05)


def _cells(entry: Round) -> list[str]:
    def value(means: Mapping[str, Mean], name: str) -> str:
        return f"{means[name].value:.4f}" if name in means else "–"

    return [
        str(entry.round_id),
        f"{entry.accepted}/{entry.invited}",
        value(entry.train, "loss"),
        value(entry.evaluate, "loss"),
        value(entry.evaluate, "accuracy"),
        str(entry.size),
        "–" if entry.seconds is None else f"{entry.seconds:.2f}",
    ]


@contextmanager
def _table() -> Iterator[Callable[[list[str]], None]]:
    """Give a function that adds a row: to a table on a terminal, as a plain line elsewhere."""
    if not sys.stdout.isatty():
        print("  ".join(HEADINGS), flush=True)
        widths = [len(heading) for heading in HEADINGS]
        yield lambda cells: print(
            "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)), flush=True
        )
        return
    table = Table(box=None, header_style="bold")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    with Live(table, console=Console(), refresh_per_second=10):
        yield lambda cells: table.add_row(*cells)
