"""Files are there whole or not at all, and locks end with their process."""

import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest

from fl_main.disk import REAL_DISK, RealDisk, read_whole, write_whole


def test_file_is_read_and_written_at_any_place(tmp_path: Path) -> None:
    file = REAL_DISK.open(tmp_path / "file", write=True)
    file.write_at(0, memoryview(b"0123456789"))
    file.write_at(4, memoryview(b"--"))
    buffer = bytearray(4)
    assert file.read_at(8, memoryview(buffer)) == 2
    assert file.size() == 10
    file.truncate(6)
    file.sync()
    file.close()
    file.close()
    assert read_whole(REAL_DISK, tmp_path / "file") == b"0123--"


def test_no_code_runs_where_a_file_goes(tmp_path: Path) -> None:
    """Python forgets a Ctrl-C that comes while a `__del__` runs; see the comment in `RealFile`."""
    file = REAL_DISK.open(tmp_path / "file", write=True)
    file.close()
    ran = list[str]()

    def note(frame: FrameType, event: str, _: object) -> None:
        ran.append(f"{event} {frame.f_code.co_name}")

    before = sys.getprofile()
    sys.setprofile(note)
    del file
    sys.setprofile(before)
    assert ran == ["c_call test_no_code_runs_where_a_file_goes"]  # of sys.setprofile


def test_opening_to_read_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        REAL_DISK.open(tmp_path / "file")
    assert REAL_DISK.names(tmp_path) == []


def test_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    assert REAL_DISK.names(tmp_path / "folder") == []
    assert not REAL_DISK.has(tmp_path / "file")
    REAL_DISK.remove(tmp_path / "file")


@pytest.mark.parametrize("durable", [False, True])
def test_whole_file_replaces_what_was_there(tmp_path: Path, durable: bool) -> None:
    for content in (b"a long first content", b"short"):
        write_whole(REAL_DISK, tmp_path / "file", content, durable=durable)
        assert read_whole(REAL_DISK, tmp_path / "file") == content
    assert REAL_DISK.names(tmp_path) == ["file"]


def test_whole_file_that_could_not_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    class Full(RealDisk):
        def move(self, source: Path, target: Path) -> None:
            raise OSError(28, "No space left on device")

    write_whole(REAL_DISK, tmp_path / "file", b"before", durable=False)
    with pytest.raises(OSError, match="No space"):
        write_whole(Full(), tmp_path / "file", b"after", durable=False)
    assert read_whole(REAL_DISK, tmp_path / "file") == b"before"


def test_lock_is_held_by_one_until_it_is_released(tmp_path: Path) -> None:
    held = REAL_DISK.lock(tmp_path / "lock")
    with pytest.raises(BlockingIOError):
        REAL_DISK.lock(tmp_path / "lock")
    held.release()
    held.release()
    REAL_DISK.lock(tmp_path / "lock").release()


def test_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from fl_main.disk import REAL_DISK; "
        "held = REAL_DISK.lock(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], check=False)
    REAL_DISK.lock(tmp_path / "lock").release()
