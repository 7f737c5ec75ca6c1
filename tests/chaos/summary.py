"""The end of the story: what was done, what was looked at, what came of it."""

from collections import Counter
from collections.abc import Iterator

from tests.chaos.checks import Checks
from tests.chaos.scene import Scene


def summary(scene: Scene, checks: Checks) -> Iterator[str]:
    """Yield the lines of the summary."""
    story, runs = scene.story, scene.runs()
    yield ""
    yield f"{story.killed} processes killed in {story.seconds:.0f} s, seed {scene.options.seed}"
    for kind in ("daemon", "site"):
        moments = {moment: count for (who, moment), count in story.kills.items() if who == kind}
        yield f"  {kind}, {sum(moments.values())} times, while: {_listed(Counter(moments))}"
    yield f"other faults: {_listed(story.faults)}"
    rounds = sum(scene.rounds.values())
    yield f"runs: {len(runs)} with {rounds} rounds; starts of the daemon: {scene.daemon.starts}"
    yield f"daemon: at most {scene.daemon.rss_bytes >> 20} MiB and {scene.daemon.open_files} open files"
    yield f"checked: {_listed(checks.seen)}"
    yield ""
    if not story.problems:
        yield "everything held"
        return
    yield f"WRONG, {len(story.problems)} times:"
    yield from (f"  {problem}" for problem in story.problems)
    yield f"kept in {scene.options.folder}: story.txt, daemon.log, logs and journals of the sites, both disks"


def _listed(counts: "Counter[str]") -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.most_common()) or "none"
