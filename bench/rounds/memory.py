"""The most memory that a process had: what Linux calls the high-water mark of resident memory."""

from pathlib import Path


def peak_mib(process: int | str = "self") -> float:
    """Return the most memory that a process had up to now.

    Not `ru_maxrss`: that begins with the memory of whoever started the process.
    """
    return _of(process, "VmHWM:")


def resident_mib(process: int) -> float:
    """Return the memory that a process has now."""
    return _of(process, "VmRSS:")


def _of(process: int | str, field: str) -> float:
    for line in Path(f"/proc/{process}/status").read_text("utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return 0.0  # it has ended, and nobody has asked for its end yet
