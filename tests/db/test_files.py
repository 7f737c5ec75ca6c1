"""Model files: staged, resumed, moved into place, read."""

import errno
import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.db.files import ModelFiles, StagedFile
from fl_main.digests import DigestAlgorithm, new_digest, tagged
from fl_main.disk import REAL_DISK
from fl_main.errors import StoreDamagedError, StoreError, StoreFullError
from fl_main.weights import Layout, pack

WEIGHTS = {"w": np.arange(100.0), "n": np.array([1, 2, 3], np.int8)}
LAYOUT = Layout.of(WEIGHTS)
DATA = bytes(pack(WEIGHTS, LAYOUT))
BLAKE3, SHA256 = DigestAlgorithm.BLAKE3, DigestAlgorithm.SHA256
DIGEST = tagged(new_digest(BLAKE3, LAYOUT.header + DATA))


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    made = ModelFiles(tmp_path, BLAKE3)
    made.make()
    return made


def staged_path(files: ModelFiles, name: str) -> Path:
    return files.staging / name


def test_the_digest_is_that_of_the_whole_file(files: ModelFiles) -> None:
    staging = files.stage("t", LAYOUT)
    for start in range(0, len(DATA), 7):
        staging.write(DATA[start : start + 7])
    assert staging.size == len(DATA)
    assert staging.finish() == DIGEST
    assert staged_path(files, "t").read_bytes() == LAYOUT.header + DATA


@given(cuts=st.lists(st.integers(0, len(DATA)), max_size=5))
def test_a_transfer_cut_anywhere_goes_on_to_the_same_digest(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "resumed"
    path.unlink(missing_ok=True)
    for cut in [*sorted(cuts), len(DATA)]:
        staging = StagedFile(REAL_DISK, path, "resumed", LAYOUT, BLAKE3, resume=True, durable=False)
        assert staging.size % 8 == 0 or staging.size == len(DATA)
        staging.write(DATA[staging.size : max(cut, staging.size)])
        staging.close()
    staging = StagedFile(REAL_DISK, path, "resumed", LAYOUT, BLAKE3, resume=True, durable=False)
    assert staging.size == len(DATA)
    assert staging.finish() == DIGEST


def test_resuming_stops_at_a_whole_value(files: ModelFiles) -> None:
    staging = files.stage("t", LAYOUT)
    staging.write(DATA[:21])
    staging.close()
    resumed = files.stage("t", LAYOUT, resume=True)
    assert resumed.size == 16
    resumed.write(DATA[16:])
    assert resumed.finish() == DIGEST


@pytest.mark.parametrize("there", [b"", b"garbage", Layout.of({"x": np.zeros(200)}).header, DATA * 3])
def test_what_is_of_no_use_is_started_anew(files: ModelFiles, there: bytes) -> None:
    staged_path(files, "t").write_bytes(there)
    staging = files.stage("t", LAYOUT, resume=True)
    assert staging.size == 0
    staging.write(DATA)
    assert staging.finish() == DIGEST


def test_without_resume_it_starts_anew(files: ModelFiles) -> None:
    staging = files.stage("t", LAYOUT)
    staging.write(DATA[:80])
    staging.close()
    with closing(files.stage("t", LAYOUT)) as staging:
        assert staging.size == 0


def test_a_finished_file_can_be_restarted_or_discarded(files: ModelFiles) -> None:
    staging = files.stage("t", LAYOUT)
    staging.write(bytes(len(DATA)))
    assert staging.finish() != DIGEST
    staging.restart()
    assert staging.size == 0
    staging.write(DATA)
    assert staging.finish() == DIGEST
    staging.discard()
    staging.close()
    assert files.staged() == []


def test_whether_a_file_is_staged_is_known(files: ModelFiles) -> None:
    assert not files.is_staged("t")
    staging = files.stage("t", LAYOUT)
    assert files.is_staged("t")
    staging.discard()
    assert not files.is_staged("t")


def test_more_or_less_data_than_the_layout_has_is_refused(files: ModelFiles) -> None:
    staging = files.stage("t", LAYOUT)
    with pytest.raises(StoreError, match="only 0 of 803 bytes are there"):
        staging.finish()
    with pytest.raises(StoreError, match="more data than the 803 bytes"):
        staging.write(DATA + b"!")
    staging.write(DATA)
    assert staging.finish() == DIGEST


def test_a_write_that_found_no_room_can_be_tried_again(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = files.stage("t", LAYOUT)
    staging.write(DATA[:80])
    write = os.pwrite
    room = [5]

    def little_room(fd: int, data: memoryview, place: int) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[: room.pop()], place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", little_room)
        with pytest.raises(StoreFullError, match=r"no room left for .*\.staging/t; free some space"):
            staging.write(DATA[80:])
    assert staging.size == 80
    staging.write(DATA[80:])
    assert staging.finish() == DIGEST


@pytest.mark.parametrize("name", ["../out", "a/b", "..", ".", ".hidden", "ä ö", "x" * 80])
def test_no_name_leads_out_of_the_folder(files: ModelFiles, name: str) -> None:
    staging = files.stage(name, LAYOUT)
    staging.write(DATA)
    staging.finish()
    (path,) = files.staging.iterdir()
    assert path.is_file()
    assert files.staged() == [name]
    files.place([(name, DIGEST)])
    assert files.staged() == []
    assert list(files.digests()) == [DIGEST]


@pytest.mark.parametrize("digest", ["blake3:../../etc/passwd", "sha256:" + "0" * 64])
def test_a_digest_that_is_no_name_of_a_file_is_refused(files: ModelFiles, digest: str) -> None:
    with pytest.raises(StoreError, match="is not a digest of this database, as blake3:"):
        files.path(digest)


def test_files_are_named_by_the_algorithm_of_their_database(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path, SHA256)
    files.make()
    path = placed(files)
    assert list(files.digests()) == [tagged(new_digest(SHA256, LAYOUT.header + DATA))]
    assert path.read_bytes() == LAYOUT.header + DATA


def placed(files: ModelFiles) -> Path:
    staging = files.stage("t", LAYOUT)
    staging.write(DATA)
    digest = staging.finish()
    files.place([("t", digest)])
    return files.path(digest)


def test_an_equal_file_heals_a_damaged_one(files: ModelFiles) -> None:
    path = placed(files)
    path.write_bytes(b"damaged")
    placed(files)
    files.open(DIGEST, LAYOUT).close()


def test_a_file_with_a_flipped_bit_is_replaced_by_its_equal(files: ModelFiles) -> None:
    path = placed(files)
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    placed(files)
    assert path.read_bytes() == good


def test_an_equal_file_stays_and_the_staged_one_goes(files: ModelFiles) -> None:
    path = placed(files)
    before = path.stat().st_ino
    placed(files)
    assert path.stat().st_ino == before
    assert list(files.staging.iterdir()) == []


def test_a_file_that_is_not_what_its_layout_says_is_not_read(files: ModelFiles) -> None:
    path = placed(files)
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    with pytest.raises(StoreDamagedError, match=r"has \d+ bytes instead of"):
        files.open(DIGEST, LAYOUT)
    path.write_bytes(b"\0" * 20 + good[20:])
    with pytest.raises(StoreDamagedError, match="does not begin with the header"):
        files.open(DIGEST, LAYOUT)
    path.unlink()
    with pytest.raises(StoreDamagedError, match="is missing"):
        files.open(DIGEST, LAYOUT)


@given(offset=st.integers(0, len(DATA)), count=st.integers(0, len(DATA)))
def test_any_part_can_be_read(tmp_path_factory: pytest.TempPathFactory, offset: int, count: int) -> None:
    files = ModelFiles(tmp_path_factory.getbasetemp() / "parts", BLAKE3)
    if not files.folder.exists():
        files.make()
        placed(files)
    file = files.open(DIGEST, LAYOUT)
    buffer = bytearray(min(count, len(DATA) - offset))
    file.read_into(offset, memoryview(buffer))
    file.close()
    assert buffer == DATA[offset : offset + len(buffer)]
