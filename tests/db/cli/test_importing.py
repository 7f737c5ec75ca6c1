"""`fl db archive`, `import` and `export` as people type them."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from fl_main.db import ModelDB, ModelStore, verify_database
from fl_main.store import RunStatus
from tests.db.building import RUN, train, weights
from tests.db.commands import fl_db


@pytest.fixture
def trained(folder: Path) -> Path:
    with ModelStore(folder) as store:
        train(store)
        over = replace(RUN, round_id=2, model_id="g2", rounds_done=2, status=RunStatus.FINISHED)
        store.commit([over], 300.0)
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    ModelStore(tmp_path / "other").close()
    return tmp_path / "other"


def test_a_run_is_taken_along(trained: Path, other: Path, tmp_path: Path) -> None:
    file = tmp_path / "hearts.flrun"
    result = fl_db("archive", "hearts", file, "-d", trained)
    with ModelDB(trained) as db:
        note, _ = db.heads()
    size = file.stat().st_size
    assert result.output == f"{file}: run hearts, {note.number} events, 7 model files; {size} bytes\n"
    result = fl_db("import", file, "-d", other)
    assert result.output == (
        f"{file}: run hearts, {note.number} events, 7 model files\nits history leads on from {note}\n"
    )
    assert fl_db("verify", "-d", other, "--against", note).exit_code == 0
    again = fl_db("import", file, "-d", other)
    assert (again.exit_code, again.stderr) == (
        1,
        "error: run 'hearts' (id run-1) is in this database already\n",
    )


def test_a_file_that_is_there_is_replaced_only_if_said_so(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "hearts.flrun"
    file.write_text("precious")
    result = fl_db("archive", "hearts", file, "-d", trained)
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: {file} exists already; choose another name, or say --force\n",
    )
    assert fl_db("archive", "hearts", file, "-d", trained, "--force").exit_code == 0


def test_a_file_that_is_no_model_is_refused_before_a_name_is_asked_for(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("name: x")
    result = fl_db("import", file, "-d", trained)
    reason = "its name must end in .safetensors or .npz or .pt"
    assert (result.exit_code, result.stderr) == (1, f"error: cannot import {file}: {reason}\n")


def test_a_model_of_another_program_becomes_a_run(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(weights(1.0), file)
    assert fl_db("import", file, "-d", trained).exit_code == 2
    trusted = fl_db("import", file, "--run", "mine", "--trust", "-d", trained)
    assert (trusted.exit_code, trusted.stderr.count("leave --trust out")) == (2, 1)
    missing = fl_db("import", file, "--run", "mine", "-d", tmp_path / "new")
    assert missing.exit_code == 1
    assert missing.stderr.endswith("(fl.db is missing); say --new to have one made\n")
    assert fl_db("import", file, "--run", "mine", "-d", tmp_path / "new", "--new").exit_code == 0
    result = fl_db("import", file, "--run", "mine", "-d", trained)
    with ModelDB(trained) as db:
        model_id = db.model("mine:last").model_id
    assert result.output == f"{file}: model {model_id} of the new run mine, 2 arrays, 60 bytes\n"
    assert verify_database(trained) == []
