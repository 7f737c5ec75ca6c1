"""How many connections the system has descriptors for."""

import logging
from contextlib import suppress

try:
    import resource
except ImportError:  # Windows knows no such limit
    resource = None  # type: ignore[assignment]

logger = logging.getLogger("fl_main.aggregator")

RESERVED_FILES = 256  # descriptors for the database, models, logs and what is being closed
MACOS_MAX = 10_240  # where no limit is set, more than this is refused all the same


def room_for(connections: int) -> int:
    """Let this process have as many descriptors as it may, and return how many connections that allows.

    Args:
        connections: How many the settings allow; if there cannot be so many, the log says so.
    """
    if resource is None:
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, MACOS_MAX):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            break
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft - RESERVED_FILES >= connections:
        return connections
    logger.warning(
        "the system allows %d open files, too few for limits.agents and limits.strangers (%d); "
        "raise it (ulimit -n, LimitNOFILE of systemd) or lower limits.agents",
        soft,
        connections,
    )
    return max(soft - RESERVED_FILES, soft // 2)
