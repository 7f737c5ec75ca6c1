"""Who does what, in the short form and in the whole one."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.rounds.compare import Size
from bench.rounds.work import Network

MEGABYTES_EACH = 1000  # of updates that a run moves, if that is not too few or too many rounds
FEWEST_ROUNDS, MOST_ROUNDS = 3, 50


@dataclass(frozen=True, slots=True)
class Part:
    """Contestants that do the same work, in turns.

    Attributes:
        most_turns: That are made: fewer where a round takes a minute.
    """

    contestants: Sequence[str]
    sizes: Sequence[Size]
    network: Network = "loopback"
    most_turns: int = 1000


PEERS = ("flower-grpc", "flower-superlink", "flare", "simple-fl")
OURS = ("ours", "ours-keep", "ours-uvloop")
CODECS = ("ours-int8", "ours-topk")
LEANEST = "flower-grpc"  # of the peers
SIZES = tuple(Size(*pair) for pair in ((1, 2), (1, 10), (1, 50), (25, 10), (100, 2), (100, 10), (500, 2)))
EMPTY = Size(0.001, 1)
GROWTH = tuple(Size(0.1, agents) for agents in (10, 100, 1000))
MANY = Size(100, 50)

FULL = (
    Part(("floor", "floor-keep", *OURS, *PEERS), SIZES),
    Part(("ours", *PEERS), (Size(1, 2), Size(1, 10), Size(25, 10), Size(100, 10)), "tls", most_turns=2),
    Part(("ours", *CODECS, *PEERS), (Size(1, 2), Size(1, 10), Size(25, 10)), "line", most_turns=1),
    Part(("ours", *CODECS, LEANEST), (Size(100, 10),), "line", most_turns=1),
    Part(("ours-crowd",), GROWTH),
    Part(("ours-crowd",), (MANY,), most_turns=1),
    Part(("ours", "ours-uvloop"), (EMPTY,)),
)
SHORT = (
    Part(("floor", "ours"), (Size(1, 2), Size(1, 10), Size(25, 10))),
    Part(("ours-crowd",), GROWTH[:2]),
    Part(("ours",), (EMPTY,)),
)
IDLE_AGENTS = 1000
FLOORS = {"ours": "floor", "ours-uvloop": "floor", "ours-keep": "floor-keep"}  # with the same retention


def rounds_of(size: Size) -> int:
    """Return how many rounds of a size are timed in a run."""
    return int(max(FEWEST_ROUNDS, min(MOST_ROUNDS, MEGABYTES_EACH / (size.megabytes * size.agents))))
