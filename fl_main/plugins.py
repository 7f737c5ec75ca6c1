"""Functions and classes of the user's own, which settings name as `package.module:function`."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from fl_main.errors import SettingsError


def find_here() -> None:
    """Let modules in the working folder be found, as `python -m` does: for commands that import some."""
    sys.path.insert(0, str(Path.cwd()))


def imported(path: str, key: str) -> Callable[..., Any]:
    """Return the function or class of a path.

    Args:
        path: `package.module:name`, found where Python finds modules.
        key: The setting that names it, for errors.

    Raises:
        SettingsError: If it cannot be imported, or is neither.
    """
    module_name, colon, attribute = path.partition(":")
    if not colon:
        raise SettingsError(f"{key}: {path!r}: give package.module:function, or …:Class")
    try:
        found = getattr(import_module(module_name), attribute)
    except Exception as error:  # a module of the user's own may raise anything
        said = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(f"{key}: {path!r} cannot be imported: {said}") from error
    if not callable(found):
        raise SettingsError(f"{key}: {path!r} is not a class or function")
    return found  # type: ignore[no-any-return] # checked when it is called
