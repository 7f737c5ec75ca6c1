"""The operator's token that a daemon makes for itself, in its database folder."""

import os
import secrets
from pathlib import Path

from fl_main.errors import SettingsError

FILE = "operator.token"


def operator_token(folder: Path, *, create: bool = False) -> str:
    """Return the operator's token that lies in a database folder, readable by its owner only.

    Args:
        folder: Of the model database.
        create: Make one if there is none.

    Raises:
        SettingsError: If one is to be made and cannot be written.
        OSError: If there is one that cannot be read.
    """
    path = folder / FILE
    token = path.read_text("ascii").strip() if path.exists() else ""
    if token or not create:
        return token
    token = secrets.token_urlsafe(32)
    try:
        _write_secret(path, token + "\n")
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be written: {error.strerror}; make room there, or set operator_token"
        ) from error
    return token


def _write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all: half a token is a weak one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
