"""Everybody who takes part."""

from functools import partial
from importlib.metadata import PackageNotFoundError, version

from bench.rounds import flare, floor, flower_grpc, flower_superlink, ours
from bench.rounds.work import CannotRunError, Contestant, Figures, Network, Work

OWN_PACKAGES = ("fl_main", "websockets", "msgpack", "numpy", "SQLAlchemy")
EVERYWHERE: tuple[Network, ...] = ("loopback", "tls", "line")


def _own_versions(*more: str) -> dict[str, str]:
    try:
        return {name: version(name) for name in (*OWN_PACKAGES, *more)}
    except PackageNotFoundError as error:
        raise CannotRunError(f"{error.name} is not installed") from None


def _simple_fl(work: Work) -> Figures:
    raise CannotRunError("it is not on PyPI, and peers are installed from nowhere else")


CONTESTANTS = {
    "floor": Contestant("floor", partial(floor.run, keep=False), versions=_own_versions),
    "ours": Contestant("fl_main", partial(ours.run, keep=False), EVERYWHERE, versions=_own_versions),
    "floor-keep": Contestant("floor, all kept", partial(floor.run, keep=True), versions=_own_versions),
    "ours-keep": Contestant(
        "fl_main, all kept", partial(ours.run, keep=True), EVERYWHERE, versions=_own_versions
    ),
    "ours-uvloop": Contestant(
        "fl_main, uvloop",
        partial(ours.run, keep=False, uvloop=True),
        EVERYWHERE,
        versions=partial(_own_versions, "uvloop"),
    ),
    "ours-int8": Contestant(
        "fl_main, int8",
        partial(ours.run, keep=False, compression=ours.INT8),
        EVERYWHERE,
        versions=_own_versions,
    ),
    "ours-topk": Contestant(
        "fl_main, top-k 1 %",
        partial(ours.run, keep=False, compression=ours.TOP_K),
        EVERYWHERE,
        versions=_own_versions,
    ),
    "ours-crowd": Contestant(
        "fl_main, agents in one process",
        partial(ours.run, keep=False, crowd=True),
        versions=_own_versions,
    ),
    "flower-grpc": Contestant(
        "Flower start_server", flower_grpc.run, EVERYWHERE, versions=flower_grpc.FLOWER.versions
    ),
    "flower-superlink": Contestant(
        "Flower SuperLink",
        flower_superlink.run,
        EVERYWHERE,
        most_rounds=2,
        most_turns=1,
        most_agents=10,
        versions=flower_grpc.FLOWER.versions,
    ),
    "flare": Contestant(
        "NVIDIA FLARE",
        flare.run,
        EVERYWHERE,
        most_rounds=3,
        most_turns=1,
        most_agents=10,
        versions=flare.FLARE.versions,
    ),
    "simple-fl": Contestant("simple-fl", _simple_fl, EVERYWHERE),
}
