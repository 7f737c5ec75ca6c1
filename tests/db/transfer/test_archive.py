"""A run leaves one database and is the same in another; whatever is wrong with its file is refused."""

import errno
import json
import random
import shutil
import sqlite3
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fl_main.db import ModelDB, ModelStore, verify_database
from fl_main.db.rows import canonical, digest_of
from fl_main.db.transfer import reading_back
from fl_main.db.transfer.archive import Archived, archive_run
from fl_main.db.transfer.importing import import_model
from fl_main.db.transfer.reading_back import ReadBack, import_archive
from fl_main.errors import StoreDamagedError, StoreError, StoreFullError
from fl_main.settings import DatabaseSettings, RetentionSettings
from fl_main.store import EventRecord, ModelKind, Record, RunStatus
from tests.db.building import (
    LAYOUT,
    RUN,
    RUN_ID,
    agent,
    answer_delta,
    metric,
    model,
    stage,
    tampering,
    train,
)

TABLES = ["runs", "rounds", "steps", "agents", "tasks", "updates", "layouts", "files", "models", "parents"]
TABLES += ["tags", "metrics"]


def end(store: ModelStore, **more: Any) -> None:
    over = replace(RUN, round_id=2, model_id="g2", rounds_done=2, run_time_s=2.5, status=RunStatus.FINISHED)
    store.commit([replace(over, reason="2 rounds are done", **more)], 300.0)


@pytest.fixture
def made(folder: Path) -> Path:
    """A finished run: with a delta, an agent that left, a value that is no number, a note for people."""
    with ModelStore(folder) as store:
        train(store)
        answer_delta(store, "t1d", "d", 2.0, base="g1")
        left = replace(agent("b", is_present=False), poll_s=60.0, outlying=2, quarantined="odd")
        extra: list[Record] = [left, metric("g2", 2, "accuracy", float("nan"), "a")]
        store.commit([*extra, EventRecord(RUN_ID, "run_paused", actor="änn", details={"n": 1})], 200.0)
        end(store)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Another database, in which there are things already."""
    folder = tmp_path / "target"
    with ModelStore(folder, clock=lambda: 7.0) as store:
        lungs = replace(RUN, run_id="run-9", name="lungs")
        first = replace(model("other", stage(store, "x", 0.0), 0, ModelKind.INITIAL), run_id="run-9")
        store.commit([lungs, first], 10.0)
    return folder


def archived(folder: Path, file: Path, run: str = "hearts") -> Archived:
    with ModelDB(folder) as db:
        return archive_run(db, db.run(run), file)


def rows(folder: Path, table: str) -> list[tuple[Any, ...]]:
    """The rows of one run, without numbers that are each database's own."""
    with closing(sqlite3.connect(folder / "fl.db")) as connection:
        cursor = connection.execute(f"SELECT * FROM {table}")  # noqa: S608
        own = [name for name, *_ in cursor.description].index("update_id") if table == "updates" else None
        return sorted((tuple(value for i, value in enumerate(row) if i != own) for row in cursor), key=repr)


def test_a_run_is_the_same_in_another_database(made: Path, target: Path, tmp_path: Path) -> None:
    before = {table: rows(target, table) for table in TABLES}
    written = archived(made, tmp_path / "hearts.flrun")
    assert (written.runs, written.files) == (("hearts",), 8)
    assert written.size == (tmp_path / "hearts.flrun").stat().st_size
    found = import_archive(target, tmp_path / "hearts.flrun")
    assert (found.runs, found.there, found.files) == (("hearts",), (), 8)
    for table in TABLES:
        assert set(rows(target, table)) == set(rows(made, table)) | set(before[table]), table
    with ModelDB(made) as one, ModelDB(target) as other:
        note = one.heads()[0]
        assert note in other.heads()
        assert str(note) == found.head
        for wanted, there in zip(one.run("hearts").models(), other.run("hearts").models(), strict=True):
            assert wanted.model_id == there.model_id
            assert wanted.path.read_bytes() == there.path.read_bytes()
        assert [u.update_id for u in other.run("hearts").updates()] == [1, 2, 3, 4, 5]
        assert other.run("hearts").events() == one.run("hearts").events()
    assert verify_database(target, against=[str(note)]) == []


def test_it_may_go_on_from_there(made: Path, target: Path, tmp_path: Path) -> None:
    archived(made, tmp_path / "a.flrun")
    import_archive(target, tmp_path / "a.flrun")
    archived(target, tmp_path / "b.flrun")
    assert (tmp_path / "a.flrun").read_bytes() == (tmp_path / "b.flrun").read_bytes()


def test_a_daemon_may_have_the_database_open(made: Path, tmp_path: Path) -> None:
    archived(made, tmp_path / "hearts.flrun")
    with ModelStore(tmp_path / "target") as store:
        store.commit([replace(RUN, run_id="run-9", name="lungs")], 10.0)
        import_archive(tmp_path / "target", tmp_path / "hearts.flrun")
        store.commit([EventRecord(RUN_ID, "noted")], 400.0)
        assert store.find_model("g2") is not None
    assert verify_database(tmp_path / "target") == []


def test_models_that_are_not_stored_stay_so(folder: Path, target: Path, tmp_path: Path) -> None:
    settings = DatabaseSettings(retention=RetentionSettings.model_validate({"keep": "rounds", "rounds": 1}))
    with ModelStore(folder, settings) as store:
        train(store)
        assert store.prune() == 120
        end(store)
    assert archived(folder, tmp_path / "hearts.flrun").files == 5
    import_archive(target, tmp_path / "hearts.flrun")
    with ModelDB(target) as db:
        assert db.model("m1a").not_stored_reason == "deleted by the retention settings"
        assert db.model("m2a").is_stored
    assert verify_database(target) == []


def test_a_run_comes_with_those_that_it_began_from(folder: Path, target: Path, tmp_path: Path) -> None:
    with ModelStore(folder) as store:
        train(store)
        end(store)
        payload = stage(store, "copy", 1 / 3)
        first = replace(model("begun", payload, 0, ModelKind.INITIAL, parents=(("g2", 1.0),)), run_id="run-2")
        store.commit([first, replace(RUN, run_id="run-2", name="again", status=RunStatus.STOPPED)], 400.0)
    written = archived(folder, tmp_path / "again.flrun", "again")
    assert written.runs == ("hearts", "again")
    found = import_archive(target, tmp_path / "again.flrun")
    assert (found.runs, found.there) == (("hearts", "again"), ())
    assert verify_database(target) == []
    with ModelStore(tmp_path / "third") as store:
        pass
    archived(folder, tmp_path / "hearts.flrun")
    import_archive(tmp_path / "third", tmp_path / "hearts.flrun")
    found = import_archive(tmp_path / "third", tmp_path / "again.flrun")
    assert (found.runs, found.there) == (("again",), ("hearts",))
    assert verify_database(tmp_path / "third") == []


def test_of_another_name_the_next_event_says_so(made: Path, target: Path, tmp_path: Path) -> None:
    archived(made, tmp_path / "hearts.flrun")
    found = import_archive(target, tmp_path / "hearts.flrun", "hearts of 2026", actor="ann")
    with ModelDB(made) as one, ModelDB(target) as other:
        note = str(one.heads()[0])
        (event,) = other.run("hearts of 2026").events("run_renamed")
        assert (event.actor, event.details) == ("ann", {"from": "hearts", "to": "hearts of 2026"})
        assert other.find_run("hearts") is None
    assert found.runs == ("hearts of 2026",)
    assert verify_database(target, against=[note]) == []


def is_untouched(target: Path) -> bool:
    return (
        verify_database(target) == []
        and [row[1] for row in rows(target, "runs")] == ["lungs"]
        and list((target / "models" / ".staging").iterdir()) == []
    )


def test_a_run_that_is_there_is_refused(made: Path, target: Path, tmp_path: Path) -> None:
    archived(made, tmp_path / "hearts.flrun")
    import_archive(target, tmp_path / "hearts.flrun")
    with pytest.raises(StoreError, match=r"run 'hearts' \(id run-1\) is in this database already"):
        import_archive(target, tmp_path / "hearts.flrun", "other")
    assert verify_database(target) == []


def test_a_name_that_is_taken_is_refused(made: Path, target: Path, tmp_path: Path) -> None:
    archived(made, tmp_path / "hearts.flrun")
    with pytest.raises(
        StoreError, match=r"there is a run 'lungs' .*\(id run-9\); give another name \(--run\)"
    ):
        import_archive(target, tmp_path / "hearts.flrun", "lungs")
    assert is_untouched(target)


def test_ids_of_another_run_are_refused(made: Path, target: Path, tmp_path: Path) -> None:
    with ModelStore(target) as store:
        store.commit([replace(model("g1", stage(store, "x", 9.0)), run_id="run-9")], 20.0)
    archived(made, tmp_path / "hearts.flrun")
    with pytest.raises(StoreError, match="models 'g1' of another run is in this database already"):
        import_archive(target, tmp_path / "hearts.flrun")
    assert is_untouched(target)


def test_an_origin_of_another_history_is_refused(folder: Path, target: Path, tmp_path: Path) -> None:
    with ModelStore(folder) as store:
        train(store)
        end(store)
        first = model("begun", stage(store, "copy", 1 / 3), 0, ModelKind.INITIAL, parents=(("g2", 1.0),))
        again = replace(RUN, run_id="run-2", name="again", status=RunStatus.STOPPED)
        store.commit([replace(first, run_id="run-2"), again], 400.0)
    archived(folder, tmp_path / "again.flrun", "again")
    with ModelStore(target) as store:
        store.commit([replace(RUN, name="mine")], 20.0)
    with pytest.raises(
        StoreError, match=r"run 'hearts' \(id run-1\) is in this database with another history"
    ):
        import_archive(target, tmp_path / "again.flrun")


def test_another_algorithm_of_digests_is_refused(made: Path, tmp_path: Path) -> None:
    archived(made, tmp_path / "hearts.flrun")
    other = tmp_path / "other"
    ModelStore(other, DatabaseSettings(digest="sha256")).close()
    with pytest.raises(
        StoreError,
        match=r"names models by blake3 digests, this database by sha256; .*made with database.digest: blake3",
    ):
        import_archive(other, tmp_path / "hearts.flrun")


def test_a_database_is_made_of_the_same_digests_if_said_so(folder: Path, tmp_path: Path) -> None:
    with ModelStore(folder, DatabaseSettings(digest="sha256")) as store:
        train(store)
        end(store)
    archived(folder, tmp_path / "hearts.flrun")
    with pytest.raises(StoreError, match="has no model database in it"):
        import_archive(tmp_path / "new", tmp_path / "hearts.flrun")
    import_archive(tmp_path / "new", tmp_path / "hearts.flrun", new=True)
    with ModelDB(tmp_path / "new") as db:
        assert db.model("g2").digest.startswith("sha256:")
    assert verify_database(tmp_path / "new") == []


def test_a_run_that_is_not_over_is_not_archived(folder: Path, tmp_path: Path) -> None:
    with ModelStore(folder) as store:
        train(store)
    with pytest.raises(StoreError, match=r"run 'hearts' is running: .*archive it when it is over"):
        archived(folder, tmp_path / "hearts.flrun")
    assert list(tmp_path.glob("*.flrun")) == []


@pytest.mark.parametrize(
    ("damage", "words"), [(Path.unlink, "is missing"), (lambda path: path.write_bytes(b"x"), "was altered")]
)
def test_damaged_models_are_not_archived(
    made: Path, tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    with ModelDB(made) as db:
        damage(db.model("g1").path)
    with pytest.raises(StoreDamagedError, match=words):
        archived(made, tmp_path / "hearts.flrun")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_a_file_that_is_there_is_kept(made: Path, tmp_path: Path) -> None:
    (tmp_path / "hearts.flrun").write_text("precious")
    with pytest.raises(StoreError, match="exists already; choose another name, or say --force"):
        archived(made, tmp_path / "hearts.flrun")
    with pytest.raises(StoreError, match=r"its name must end in \.flrun"):
        archived(made, tmp_path / "hearts.zip")


# --- archives that were tampered with -------------------------------------------------------


def change_entry(file: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    entries[name] = change(entries[name])
    with zipfile.ZipFile(file, "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)


def manifest_with(**values: Any) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps({**json.loads(data), **values}).encode()


def run_with(**values: Any) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        found = json.loads(data)
        found["runs"][0] |= values
        return json.dumps(found).encode()

    return change


EVENTS, MANIFEST = "runs/0.jsonl", "manifest.json"
TAMPERED: list[tuple[str, Callable[[bytes], bytes], str]] = [
    (EVENTS, lambda data: data.replace(b"site a", b"site x"), "the chain breaks at event 3"),
    (EVENTS, lambda data: b"".join(data.splitlines(True)[:-1]), "history of run 'hearts' is not whole"),
    (EVENTS, lambda data: data.rstrip(b"\n"), "a line is cut off"),
    (EVENTS, lambda data: b"[1]\n" + data, "not enough values"),
    (EVENTS, lambda data: b"5\n" + data, "cannot unpack"),
    (EVENTS, lambda data: b'["x","y","","{}","z"]\n' + data, "event 1 is none of ours"),
    ("layouts.jsonl", lambda data: b"", "the layout of model initial is not in it"),
    ("layouts.jsonl", lambda data: b"[[1]]\n", "not the description of a layout"),
    (MANIFEST, lambda data: b"{}", "manifest: format: Field required"),
    (MANIFEST, manifest_with(format=2), "manifest: format"),
    (MANIFEST, manifest_with(schema_version=999), "which is newer; upgrade fl_main to read it"),
    (MANIFEST, manifest_with(digest_algorithm="md5"), "manifest: digest_algorithm"),
    (MANIFEST, manifest_with(runs=[]), "manifest: runs"),
    (MANIFEST, run_with(head="0" * 64), "history of run 'hearts' is not whole"),
    (MANIFEST, run_with(events=3), "history of run 'hearts' is not whole"),
    (MANIFEST, run_with(run_id="run-9"), "chain breaks at event 1"),
    (MANIFEST, run_with(settings='{"name":"lies"}'), "event 1 is no run of this run"),
    (MANIFEST, run_with(settings="?"), "event 1 is no run of ours"),
]


@pytest.mark.parametrize(("name", "change", "words"), TAMPERED, ids=range(len(TAMPERED)))
def test_a_tampered_archive_is_refused_and_leaves_nothing(
    made: Path, target: Path, tmp_path: Path, name: str, change: Callable[[bytes], bytes], words: str
) -> None:
    file = tmp_path / "hearts.flrun"
    archived(made, file)
    change_entry(file, name, change)
    with pytest.raises(StoreError, match=words) as caught:
        import_archive(target, file)
    assert "\n" not in str(caught.value)
    assert is_untouched(target)


def entry_of(folder: Path, model_id: str) -> str:
    with ModelDB(folder) as db:
        return "models/" + db.model(model_id).path.name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "was altered"),
        (lambda data: data[:-1], "has another size than its layout"),
        (lambda data: data + b"x", "has another size than its layout"),
        (lambda data: b"\0" * len(data), "does not begin with the header of its layout"),
    ],
)
def test_altered_models_in_an_archive_are_refused(
    made: Path, target: Path, tmp_path: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    file = tmp_path / "hearts.flrun"
    archived(made, file)
    change_entry(file, entry_of(made, "g1"), change)
    with pytest.raises(StoreError, match=words):
        import_archive(target, file)
    assert is_untouched(target)


def test_models_that_are_not_in_it_are_missed(made: Path, target: Path, tmp_path: Path) -> None:
    file = tmp_path / "hearts.flrun"
    archived(made, file)
    with zipfile.ZipFile(file) as archive:
        kept = {e.filename: archive.read(e) for e in archive.infolist() if e.filename != entry_of(made, "g1")}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in kept.items():
            archive.writestr(name, data)
    with pytest.raises(StoreError, match="There is no item named"):
        import_archive(target, file)
    assert is_untouched(target)


def rewritten(folder: Path, sql: str) -> None:
    """Alter facts in a database and make its hashes fit, as somebody would who wants to be let in."""
    from tests.db.test_history import rewrite

    with tampering(folder) as connection:
        rewrite(connection, sql)


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("""UPDATE events SET facts = replaced(facts, '"run_id":"run-1"', '"run_id":"run-9"')
            WHERE record = 'tag'""", "is no tag of this run"),
        ("UPDATE events SET key = 'x' WHERE record = 'tag'", "is no tag of this run"),
        ("UPDATE events SET record = 'virus' WHERE record = 'tag'", "that no version of fl_main writes"),
        ("UPDATE events SET facts = '[]' WHERE record = 'tag'", "is not written as ours are"),
        ("UPDATE events SET facts = '{ }' WHERE record = 'tag'", "is not written as ours are"),
        ("UPDATE events SET facts = '{}' WHERE record = 'tag'", "is no tag of ours"),
        ("""UPDATE events SET facts = replaced(facts, '"is_present":true', '"is_present":7')
            WHERE record = 'agent'""", "is no agent of this run"),
        ("""UPDATE events SET facts = replaced(facts, '"size":60', '"size":61')
            WHERE record = 'model'""", "another size than its layout"),
        ("""UPDATE events SET facts = replaced(facts, '"round_id":1,', '"round_id":"1",')
            WHERE record = 'model'""", "is no model of ours: a value of another type"),
        ("""UPDATE events SET facts = replaced(facts, '"kind":"run_paused"', '"kind":7')
            WHERE record = 'event'""", "does not say what happened as ours do"),
        ("UPDATE events SET facts = '{}' WHERE record = 'event'", "does not say what happened as ours do"),
        ("UPDATE events SET at = 1e300 WHERE record = 'tag'", "is none of ours"),  # no date is so far off
        ("""UPDATE events SET facts = replaced(facts, '"name":"hearts"', '"name":"livers"')
            WHERE record = 'run'""", "its history is not that of a run 'hearts'"),
        ("""UPDATE events SET facts = replaced(facts, '"status":"finished"', '"status":"running"')
            WHERE record = 'run'""", "run 'hearts' is running in it: it would go on in two places"),
    ],
)  # fmt: skip
def test_an_archive_whose_hashes_fit_must_still_hold_records_of_ours(
    made: Path, target: Path, tmp_path: Path, sql: str, words: str
) -> None:
    rewritten(made, sql)
    file = tmp_path / "hearts.flrun"
    archived(made, file)
    with pytest.raises(StoreError, match=words):
        import_archive(target, file)
    assert is_untouched(target)


def with_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Let the run have had other settings from the beginning on, and its hashes fit."""
    before, after = (digest_of(canonical(dict(found))) for found in (RUN.settings, settings))
    with tampering(folder) as connection:
        connection.execute("UPDATE runs SET settings = ?", (canonical(settings),))
    sql = f"UPDATE events SET facts = replaced(facts, '{before}', '{after}') WHERE record = 'run'"  # noqa: S608
    rewritten(folder, sql)


FOREIGN: list[tuple[dict[str, Any], str]] = [
    ({"strategy": "subprocess:Popen", "strategy_options": {"args": "true"}}, "'subprocess:Popen'"),
    ({"strategy": ["norm_bound", {"os:system": {"command": "true"}}]}, "'os:system'"),
    ({"cohort": {"rule": "os:abort"}}, "'os:abort'"),
]


@pytest.mark.parametrize(("settings", "words"), FOREIGN, ids=range(len(FOREIGN)))
def test_functions_in_settings_are_taken_only_from_whom_one_trusts(
    made: Path, target: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    """A daemon calls them with the options that stand there, as soon as it starts."""
    with_settings(made, {"name": "hearts", **settings})
    file = tmp_path / "hearts.flrun"
    archived(made, file)
    with pytest.raises(StoreError, match=f"name a function, {words}, which .* say --trust"):
        import_archive(target, file)
    assert is_untouched(target)
    import_archive(target, file, trust=True)
    assert verify_database(target) == []


@pytest.mark.parametrize("settings", [{"name": "hearts", "round": 5}, {"name": "hearts", "strategy": 3}, {}])
def test_settings_that_are_none_are_refused(
    made: Path, target: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """No daemon could start with them."""
    with_settings(made, settings)
    archived(made, tmp_path / "hearts.flrun")
    with pytest.raises(StoreError, match="the settings of run hearts are none of ours: ") as caught:
        import_archive(target, tmp_path / "hearts.flrun")
    assert "\n" not in str(caught.value)
    assert is_untouched(target)


def test_large_events_are_written_one_by_one(
    made: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what a small file says, no thousand events are in memory together."""
    archived(made, tmp_path / "hearts.flrun")
    monkeypatch.setattr(reading_back, "_CHARS_AT_ONCE", 1)
    import_archive(target, tmp_path / "hearts.flrun")
    assert rows(made, "updates") == [row for row in rows(target, "updates") if RUN_ID in row]
    assert verify_database(target) == []


def test_more_layouts_than_any_run_has_are_refused(
    made: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(made, tmp_path / "hearts.flrun")
    monkeypatch.setattr(reading_back, "_MAX_LAYOUTS_BYTES", 10)
    with pytest.raises(StoreError, match="it has more layouts than any of ours"):
        import_archive(target, tmp_path / "hearts.flrun")


def test_what_others_stage_under_the_id_of_a_run_stays(made: Path, target: Path, tmp_path: Path) -> None:
    """An archive says itself what its run's id is: also that of a task whose answer is on its way."""
    archived(made, tmp_path / "hearts.flrun")
    with ModelStore(target) as store:
        staging = store.stage(f"{RUN_ID}.weights", LAYOUT)
        import_archive(target, tmp_path / "hearts.flrun")
        assert store.is_staged(staging.name)
        staging.discard()


@pytest.mark.parametrize("size", [0, 10, 22, 5000])
def test_what_is_no_archive_is_refused(target: Path, tmp_path: Path, size: int) -> None:
    (tmp_path / "x.flrun").write_bytes(b"P" * size)
    with pytest.raises(StoreError, match=r"x.flrun is no whole archive of a run: it does not end as one"):
        import_archive(target, tmp_path / "x.flrun")


def test_an_archive_that_was_cut_off_is_refused(made: Path, target: Path, tmp_path: Path) -> None:
    file = tmp_path / "hearts.flrun"
    archived(made, file)
    data = file.read_bytes()
    for size in range(0, len(data), 997):
        file.write_bytes(data[:size])
        with pytest.raises(StoreError, match="is no whole archive"):
            import_archive(target, file)


def test_a_directory_too_large_to_be_read_is_refused(made: Path, target: Path, tmp_path: Path) -> None:
    file = tmp_path / "hearts.flrun"
    archived(made, file)
    data = bytearray(file.read_bytes())
    data[-10:-6] = (1 << 31).to_bytes(4, "little")  # the length of its directory
    file.write_bytes(data)
    with pytest.raises(StoreError, match="it has more entries than any of ours"):
        import_archive(target, file)


def test_a_missing_file_is_told(target: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot read an archive in .*nothing\.flrun"):
        import_archive(target, tmp_path / "nothing.flrun")


def test_an_archive_of_before_gets_what_came_since(made: Path, target: Path, tmp_path: Path) -> None:
    """Records of a version that knew fewer columns are read as a migrated database would."""
    with ModelDB(made) as db:
        tagged = db.run("hearts").tags()
    rewritten(
        made,
        """UPDATE events SET facts = replaced(facts, '"rollbacks":0,', '') WHERE record = 'run'""",
    )
    archived(made, tmp_path / "hearts.flrun")
    found: ReadBack = import_archive(target, tmp_path / "hearts.flrun")
    with ModelDB(target) as db:
        assert db.run(found.runs[0]).tags() == tagged
    assert LAYOUT.nbytes == 60
    assert reading_back.ReadBack is ReadBack


def test_garbage_is_refused_or_harmless(made: Path, tmp_path: Path) -> None:
    """Bytes of an archive changed at random: a line that refuses it, or a database that is whole."""
    file = tmp_path / "hearts.flrun"
    archived(made, file)
    whole, chance = file.read_bytes(), random.Random(10)
    taken = refused = lines = 0
    target = tmp_path / "target"
    ModelStore(target).close()
    for _ in range(80):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        file.write_bytes(data)
        try:
            import_archive(target, file)
        except StoreError as error:
            lines += len(str(error).splitlines())
            refused += 1
        else:
            taken += 1
            assert verify_database(target) == []
            shutil.rmtree(target)
            ModelStore(target).close()
    assert verify_database(target) == []
    assert lines == refused > taken  # taken: what nothing depends on, as times of entries


def test_memory_does_not_grow_with_models(tmp_path: Path) -> None:
    arrays = {"w": np.zeros(5_000_000, np.float64)}  # 40 MB
    save_file(arrays, tmp_path / "large.safetensors")
    for folder in ("one", "two"):
        ModelStore(tmp_path / folder).close()
    tracemalloc.start()
    try:
        import_model(tmp_path / "one", tmp_path / "large.safetensors", "large")
        archived(tmp_path / "one", tmp_path / "large.flrun", "large")
        import_archive(tmp_path / "two", tmp_path / "large.flrun")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 20 << 20
    assert verify_database(tmp_path / "two") == []


def full(*args: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_no_half_archive(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zipfile._ZipWriteFile.write", full)
    with pytest.raises(StoreFullError, match=r"cannot archive a run: no room left for .*hearts\.flrun"):
        archived(made, tmp_path / "hearts.flrun")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_a_full_disk_leaves_the_database_as_it_was(
    made: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(made, tmp_path / "hearts.flrun")
    with monkeypatch.context() as patched:
        patched.setattr("fl_main.disk.RealFile.write_at", full)
        with pytest.raises(StoreFullError, match="no room left"):
            import_archive(target, tmp_path / "hearts.flrun")
    assert is_untouched(target)
    import_archive(target, tmp_path / "hearts.flrun")
    assert verify_database(target) == []
