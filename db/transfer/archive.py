"""A run as one file, which another database reads back: its history, its models, nothing else.

A ZIP file: `manifest.json` says whose it is; `runs/N.jsonl` has the chain of a run, an event per line;
`layouts.jsonl` what arrays its models have; `models/` their files, named by digest. Rows are not in it,
as the chain says them all. With the run come those whose models it began from.
"""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import IO, Any

from fl_main import __version__
from fl_main.digests import new_digest, tagged
from fl_main.errors import StoreDamagedError, StoreError
from fl_main.store import RunStatus

from .. import migrations
from ..model_db import ModelDB
from ..runs_and_models import Run
from .export import appearing

SUFFIX = ".flrun"
FORMAT = 1
MANIFEST, LAYOUTS = "manifest.json", "layouts.jsonl"

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Archived:
    """What was written.

    Attributes:
        runs: Names, those first that others began from.
        size: Bytes of the file.
    """

    runs: tuple[str, ...]
    events: int
    files: int
    size: int


def events_entry(number: int) -> str:
    """Return where the chain of the archive's n-th run lies."""
    return f"runs/{number}.jsonl"


def model_entry(digest: str) -> str:
    """Return where a model file lies."""
    return f"models/{digest.partition(':')[2]}.safetensors"


def archive_run(db: ModelDB, run: Run, target: Path | str, *, overwrite: bool = False) -> Archived:
    """Write a run that is over to one file, with the runs whose models it began from.

    Memory does not grow with the run; each model file is held against its digest while it is copied.

    Args:
        target: Ends in `.flrun`.
        overwrite: Whether a file that is there is replaced.

    Raises:
        StoreDamagedError: If a model file is missing or altered.
        StoreError: If a run is not over, or the file exists or cannot be written.
    """
    target = Path(target)
    if target.suffix != SUFFIX:
        raise StoreError(f"cannot archive to {target}: its name must end in {SUFFIX}")
    with db.connect() as connection, appearing(target, "archive a run", overwrite=overwrite) as part:
        runs = _with_origins(connection, run.run_id)
        manifest = _manifest(db, connection, runs)
        digests = _digests(connection, runs)
        with zipfile.ZipFile(part, "w") as archive:
            archive.writestr(_entry(MANIFEST), json.dumps(manifest, ensure_ascii=False, indent=1))
            _write_lines(archive, LAYOUTS, _layouts(connection, runs))
            for number, run_id in enumerate(runs):
                _write_lines(archive, events_entry(number), _events(connection, run_id))
            for digest in digests:
                _write_model(archive, db, digest)
        size = part.stat().st_size
    listed = manifest["runs"]
    names = tuple(entry["name"] for entry in listed)
    return Archived(names, sum(entry["events"] for entry in listed), len(digests), size)


def _with_origins(connection: Connection, run_id: str) -> list[str]:
    """Return the run, and before it those whose models its own began from; all must be over."""
    query = """
        SELECT DISTINCT parent.run_id FROM models AS child
        JOIN parents ON parents.model_id = child.model_id
        JOIN models AS parent ON parent.model_id = parents.parent_id
        WHERE child.run_id = ? AND parent.run_id <> child.run_id ORDER BY parent.rowid
    """
    found: list[str] = []
    left = [run_id]
    while left:
        if (one := left.pop(0)) not in found:
            found.append(one)
            left += [origin for (origin,) in connection.execute(query, (one,))]
    for one in found:
        name, status = connection.execute("SELECT name, status FROM runs WHERE run_id = ?", (one,)).fetchone()
        if not RunStatus(status).is_over:
            raise StoreError(
                f"run {name!r} is {status}: it would go on in two places; "
                "archive it when it is over (`fl run stop` ends it)"
            )
    return found[::-1]


def _manifest(db: ModelDB, connection: Connection, runs: list[str]) -> dict[str, Any]:
    query = """
        SELECT name, settings, seq, hash FROM runs JOIN events ON events.run_id = runs.run_id
        WHERE runs.run_id = ? ORDER BY seq DESC LIMIT 1
    """
    listed = []
    for run_id in runs:
        name, settings, events, head = connection.execute(query, (run_id,)).fetchone()
        listed.append({"run_id": run_id, "name": name, "settings": settings, "events": events, "head": head})
    return {
        "format": FORMAT,
        "made_by": f"fl_main {__version__}",
        "schema_version": migrations.newest(),
        "digest_algorithm": str(db.files.algorithm),
        "runs": listed,
    }


_OF_RUNS = "run_id IN (SELECT value FROM json_each(?))"


def _digests(connection: Connection, runs: list[str]) -> list[str]:
    query = f"SELECT DISTINCT digest FROM models WHERE {_OF_RUNS} AND is_stored"  # noqa: S608
    return [digest for (digest,) in connection.execute(query, (json.dumps(runs),))]


def _layouts(connection: Connection, runs: list[str]) -> Iterator[str]:
    query = f"""
        SELECT arrays FROM layouts WHERE digest IN (SELECT layout_digest FROM models WHERE {_OF_RUNS})
    """  # noqa: S608
    return (arrays for (arrays,) in connection.execute(query, (json.dumps(runs),)))


def _events(connection: Connection, run_id: str) -> Iterator[str]:
    query = "SELECT at, record, key, facts, hash FROM events WHERE run_id = ? ORDER BY seq"
    return (json.dumps(list(row), ensure_ascii=False) for row in connection.execute(query, (run_id,)))


def _entry(name: str) -> zipfile.ZipInfo:
    """Return an entry for text, which says no time: archives of one run are equal."""
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _write_lines(archive: zipfile.ZipFile, name: str, lines: Iterator[str]) -> None:
    with archive.open(_entry(name), "w", force_zip64=True) as entry:
        for line in lines:
            entry.write(line.encode() + b"\n")


def _write_model(archive: zipfile.ZipFile, db: ModelDB, digest: str) -> None:
    path, found = db.files.path(digest), new_digest(db.files.algorithm)
    info = zipfile.ZipInfo(model_entry(digest))  # stored as it is: numbers hardly become smaller
    try:
        with path.open("rb") as file, archive.open(info, "w", force_zip64=True) as entry:
            while piece := file.read(_PIECE_BYTES):
                found.update(piece)
                entry.write(piece)
    except FileNotFoundError:
        raise StoreDamagedError(f"model file {path} is missing; see `fl db verify`") from None
    if tagged(found) != digest:
        raise StoreDamagedError(f"model file {path} was altered; see `fl db verify`")


def copy(source: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield so many bytes of a stream in pieces.

    Raises:
        StoreError: If there are fewer.
    """
    while size:
        piece = source.read(min(_PIECE_BYTES, size))
        if not piece:
            raise StoreError("a file in it ends too early")
        size -= len(piece)
        yield piece
