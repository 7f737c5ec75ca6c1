"""The floor: `bench/bare_round.py`, the same traffic with no framework around it."""

import json
import sys

from bench.rounds.processes import ROOT, Processes, patience_s
from bench.rounds.work import Figures, Work

PROGRAM = ROOT / "bench" / "bare_round.py"


def run(work: Work, *, keep: bool) -> Figures:
    """Return the figures of the floor; the updates of all rounds stay on the disk, or of none."""
    command = [sys.executable, PROGRAM, str(work.megabytes), str(work.agents), str(work.rounds)]
    with Processes(work.folder) as processes:
        processes.finish("floor", command + ["--keep"] * keep, patience_s(work))
        found = json.loads(processes.log("floor").read_text("utf-8").splitlines()[-1])
    return Figures(found["round_s"], found["peak_MiB"])
