"""What an agent keeps on disk is whole, its own, and gone when it is not needed any more."""

import json
import os
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fl_main.agent.outgoing import Outgoing
from fl_main.agent.state_folder import OutboxEntry, StateFolder, default_folder
from fl_main.disk import RealDisk
from fl_main.errors import StateFolderError, StateFolderFullError, WeightsError
from fl_main.ports import DiskFile
from fl_main.weights import Array, Layout

WEIGHTS: dict[str, Array] = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "site" / "state"


def put(folder: StateFolder, task_id: str = "a" * 24, state: object = None) -> OutboxEntry:
    return folder.put(
        task_id,
        5,
        None,
        {"loss": 0.5},
        {"weights": Outgoing.of(WEIGHTS, Layout.of(WEIGHTS))},
        {"s": np.array(state)} if state is not None else None,
        1.5,
    )


def facts(entry: OutboxEntry) -> str:
    return json.dumps(asdict(entry))


def test_identity_is_kept(path: Path) -> None:
    first = StateFolder(path)
    first.close()
    second = StateFolder(path)
    second.close()
    second.close()
    assert first.agent_id == second.agent_id
    assert len(first.agent_id) == 32


def test_finished_update_is_found_again(path: Path) -> None:
    folder = StateFolder(path)
    entry = put(folder)
    folder.close()
    again = StateFolder(path)
    [found] = again.entries()
    assert facts(found) == facts(entry)
    stored = load_file(again.payload_file(entry.task_id, "weights"))
    np.testing.assert_array_equal(stored["w"], WEIGHTS["w"])
    again.close()


def test_update_whose_facts_were_never_written_is_swept_away(path: Path) -> None:
    folder = StateFolder(path)
    entry = put(folder)
    (path / "outbox" / f"{entry.task_id}.json").unlink()
    folder.close()
    again = StateFolder(path)
    assert again.entries() == []
    assert list((path / "outbox").iterdir()) == []
    again.close()


def test_facts_that_are_damaged_are_thrown_away(path: Path) -> None:
    folder = StateFolder(path)
    for name, text in {"a": "{", "b": "[]", "c": '{"task_id": 1}', "d": '{"payloads": [{}]}'}.items():
        (path / "outbox" / f"{name}.json").write_text(text)
    assert folder.entries() == []
    assert list((path / "outbox").iterdir()) == []
    folder.close()


@pytest.mark.parametrize(
    ("num_steps", "metrics", "reason"),
    [
        (-1, {}, "num_steps: Input should be greater than or equal to 0"),
        (None, {str(number): 0.0 for number in range(1001)}, "metrics: .* at most 1000 items"),
        (None, {"\udc80": 0.0}, "metrics.*should be a valid string"),
    ],
    ids=["steps", "metrics", "name"],
)
def test_update_that_could_never_be_offered_is_not_kept(
    num_steps: int | None, metrics: dict[str, float], reason: str, path: Path
) -> None:
    folder = StateFolder(path)
    arrays = {"weights": Outgoing.of(WEIGHTS, Layout.of(WEIGHTS))}
    with pytest.raises(WeightsError, match=reason):
        folder.put("a" * 24, 1, num_steps, metrics, arrays, {"s": np.array(1)}, 0.0)
    assert folder.entries() == []
    assert list((path / "outbox").iterdir()) == list((path / "state").iterdir()) == []
    folder.close()


def test_update_from_earlier_that_can_never_be_offered_is_made_again(path: Path) -> None:
    folder = StateFolder(path)
    file = path / "outbox" / f"{put(folder).task_id}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_steps": -1}))
    assert folder.entries() == []
    assert not file.exists()
    folder.close()


def test_answered_update_is_gone(path: Path) -> None:
    folder = StateFolder(path)
    entry, other = put(folder), put(folder, "b" * 24)
    folder.drop(entry.task_id, keep_state=False)
    folder.drop(entry.task_id, keep_state=False)
    assert list(map(facts, folder.entries())) == [facts(other)]
    assert len(list((path / "outbox").iterdir())) == 2
    folder.close()


def test_state_is_current_only_once_its_update_counted(path: Path) -> None:
    folder = StateFolder(path)
    entry = put(folder, state=7)
    assert folder.state() == {}
    folder.drop(entry.task_id, keep_state=True)
    assert folder.pending_state() == [entry.task_id]
    folder.promote_state(entry.task_id)
    folder.promote_state(entry.task_id)
    folder.promote_state("f" * 24)
    assert folder.state()["s"] == 7
    assert folder.pending_state() == []
    folder.close()


def test_state_of_a_rejected_update_never_becomes_current(path: Path) -> None:
    folder = StateFolder(path)
    entry = put(folder, state=7)
    folder.drop(entry.task_id, keep_state=False)
    folder.promote_state(entry.task_id)
    assert folder.state() == {}
    folder.close()


class Syncing(RealDisk):
    """A disk that tells in which order folders were waited for."""

    def __init__(self) -> None:
        self.synced: list[str] = []

    def sync_folder(self, folder: Path) -> None:
        self.synced.append(folder.name)
        super().sync_folder(folder)


def test_loss_of_power_cannot_keep_a_deletion_and_lose_what_it_was_for(path: Path) -> None:
    disk = Syncing()
    folder = StateFolder(path, disk, durable=True)
    folder.drop(put(folder, state=1).task_id, keep_state=True)
    disk.synced.clear()
    put(folder, "b" * 24, state=2)
    assert disk.synced.index("state") < disk.synced.index("outbox")
    folder.close()


class Racing(RealDisk):
    """A disk on which something else happens before a file is opened, if whoever opens it lets it."""

    def __init__(self) -> None:
        self.other: threading.Thread | None = None

    def open(self, path: Path, *, write: bool = False) -> DiskFile:
        if self.other and not self.other.ident:
            self.other.start()
            self.other.join(0.2)
        return super().open(path, write=write)


def test_state_is_read_while_another_thread_makes_a_newer_one_current(path: Path) -> None:
    disk = Racing()
    folder = StateFolder(path, disk)
    for number, task_id in enumerate(("a" * 24, "b" * 24)):
        put(folder, task_id, state=number)
        folder.drop(task_id, keep_state=True)
    folder.promote_state("a" * 24)
    disk.other = threading.Thread(target=folder.promote_state, args=("b" * 24,))
    assert folder.state()["s"] == 0
    disk.other.join()
    assert folder.state()["s"] == 1
    folder.close()


def test_state_that_was_overtaken_is_thrown_away(path: Path) -> None:
    folder = StateFolder(path)
    for number, task_id in enumerate(("c", "a", "b")):
        put(folder, task_id * 24, state=number)
        folder.drop(task_id * 24, keep_state=True)
    folder.promote_state("a" * 24)
    assert folder.pending_state() == ["b" * 24]
    assert folder.state()["s"] == 1
    folder.promote_state("c" * 24)  # it was counted earlier: that is said once more, and too late
    assert folder.state()["s"] == 1
    folder.close()


def test_state_that_was_overtaken_when_the_process_was_killed_never_comes_back(path: Path) -> None:
    folder = StateFolder(path)
    for number, task_id in enumerate("ab"):
        put(folder, task_id * 24, state=number)
        folder.drop(task_id * 24, keep_state=True)
    overtaken = (path / "state" / f"00000001.{'a' * 24}.accepted.safetensors").read_bytes()
    folder.promote_state("b" * 24)
    (path / "state" / f"00000001.{'a' * 24}.accepted.safetensors").write_bytes(overtaken)  # not deleted yet
    folder.close()
    again = StateFolder(path)
    assert again.pending_state() == []
    assert again.state()["s"] == 1
    again.close()


def test_state_of_an_update_that_was_never_whole_is_not_held(path: Path) -> None:
    folder = StateFolder(path)
    entry = put(folder, state=7)
    (path / "outbox" / f"{entry.task_id}.json").unlink()  # killed before the facts were written
    folder.close()
    again = StateFolder(path)
    assert again.pending_state() == []
    assert list((path / "state").iterdir()) == []
    again.close()


def test_state_waits_for_its_count_though_the_disk_could_not_write_that_it_was_accepted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    folder = StateFolder(path)
    entry = put(folder, state=7)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        folder.drop(entry.task_id, keep_state=True)
    assert folder.pending_state() == [entry.task_id]
    folder.drop("b" * 24, keep_state=False)  # with the next one it is tried again
    assert folder.entries() == []
    folder.promote_state(entry.task_id)
    assert folder.state()["s"] == 7
    folder.close()


@pytest.mark.parametrize("harm", ["shorter", "other", "gone"])
def test_update_that_a_loss_of_power_damaged_is_made_again(path: Path, harm: str) -> None:
    folder = StateFolder(path)
    entry = put(folder, state=7)
    file = folder.payload_file(entry.task_id, "weights")
    whole = file.read_bytes()
    file.write_bytes({"shorter": whole[:-1], "other": whole[:-8] + bytes(8), "gone": b""}[harm])
    if harm == "gone":
        file.unlink()
    folder.close()
    again = StateFolder(path)
    assert again.entries() == []
    assert [*(path / "outbox").iterdir(), *(path / "state").iterdir()] == []
    again.close()


def test_second_user_is_told_to_choose_another_name(path: Path) -> None:
    folder = StateFolder(path)
    with pytest.raises(StateFolderError, match="is in use by another process; give this agent another name"):
        StateFolder(path)
    folder.close()
    StateFolder(path).close()


def test_damaged_identity_is_named(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "agent.json").write_text("[]")
    with pytest.raises(StateFolderError, match=r"agent\.json is damaged; delete it"):
        StateFolder(path)
    (path / "agent.json").write_text(json.dumps({"agent_id": "x"}))
    StateFolder(path).close()


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateFolderError, match="choose a state folder that can be written"):
        StateFolder(tmp_path / "file" / "state")


def test_update_without_room_is_a_typed_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = StateFolder(path)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StateFolderFullError, match="No space left on device; free some space"):
            put(folder, state=7)
    assert folder.entries() == []
    assert [*(path / "outbox").iterdir(), *(path / "state").iterdir()] == []
    put(folder)
    folder.close()


def test_default_folders_of_names_that_look_the_same_on_disk_differ(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FL_STATE_HOME", str(tmp_path))
    used: dict[str, Path] = {}
    for _ in range(2):  # the second time each finds its own again
        for name in ("Zürich", "Zérich", "Z rich", "Z_rich"):
            path = default_folder("r", name)
            assert used.setdefault(name, path) == path
            StateFolder(path, default_of=("r", name)).close()
    assert len(set(used.values())) == 4
    assert used["Zürich"].name == "r_Z_rich"


def test_default_folders_of_the_longest_names_fit_on_a_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FL_STATE_HOME", str(tmp_path))
    run, names = "r" * 100, ["x" * 199 + "1", "x" * 199 + "2"]
    for name in names:
        StateFolder(default_folder(run, name), default_of=(run, name)).close()
    assert default_folder(run, names[0]) != default_folder(run, names[1])


def test_default_folder_that_an_older_version_made_stays_that_of_its_agent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FL_STATE_HOME", str(tmp_path))
    path = tmp_path / "fl_main" / "agents" / "r_Z_rich"
    path.mkdir(parents=True)
    (path / "agent.json").write_text(json.dumps({"agent_id": "x", "starts": 3}))
    assert default_folder("r", "Zürich") == path
    StateFolder(path, default_of=("r", "Zürich")).close()
    assert default_folder("r", "Zérich") != path
    folder = StateFolder(path)  # named by hand: it stays whose it is
    folder.close()
    assert (folder.agent_id, folder.start_number) == ("x", 4)
    assert default_folder("r", "Zürich") == path


def test_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FL_STATE_HOME", "/state")
    assert default_folder("run", "a/b").parent == Path("/state/fl_main/agents")
    monkeypatch.delenv("FL_STATE_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert default_folder("run", "a").is_relative_to("/xdg")
