"""The arrows between the folders, held: which part of the project may import which.

Imports count wherever they stand: in functions and under TYPE_CHECKING too. The `fl` command
reaches the other folders by names in strings, which load only what is asked for.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FOLDERS = {
    "fl_main": "fl_main",
    "agent": "fl_main.agent",
    "aggregator": "fl_main.aggregator",
    "db": "fl_main.db",
}
MAY_IMPORT = {
    "fl_main": {"fl_main"},
    "fl_main.agent": {"fl_main.agent", "fl_main"},
    "fl_main.aggregator": {"fl_main.aggregator", "fl_main"},
    "fl_main.db": {"fl_main.db", "fl_main"},
}

# The only files that join the daemon and the model database.
COMPOSITION_ROOT = {"aggregator/app.py"}

# What the examples may use: what a reader of the documentation may use.
PUBLIC = {
    "fl_main",
    "fl_main.agent",
    "fl_main.agent.sklearn",
    "fl_main.agent.torch",
    "fl_main.agent.torch_correction",
    "fl_main.aggregator",
    "fl_main.corrections",
    "fl_main.db",
    "fl_main.errors",
    "fl_main.personal",
    "fl_main.settings",
    "fl_main.strategies",
}

# Sockets, databases, clocks and tasks are the shells' business, so the core names none of them ...
OF_SHELLS = {
    "asyncio",
    "concurrent",
    "http",
    "multiprocessing",
    "selectors",
    "signal",
    "socket",
    "sqlalchemy",
    "sqlite3",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "urllib",
    "uvloop",
    "websockets",
}
# ... but for the root of the `fl` command, which is a shell that lies in the core's folder.
SHELLS_IN_CORE = {
    "fl_main/__main__.py",
    "fl_main/acceptor.py",
    "fl_main/certificates.py",
    "fl_main/cli.py",
    "fl_main/links.py",
    "fl_main/log_handler.py",
    "fl_main/proxies.py",
    "fl_main/threads.py",
    "fl_main/wire.py",
}

RUNS_CODE = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
RUNS_CODE_BUILTINS = {"__import__", "compile", "eval", "exec"}


@dataclass(frozen=True)
class Module:
    path: str  # from the repository root, with slashes
    name: str  # as imported
    package: str  # the one it lies in; itself for an __init__.py
    tree: ast.Module


def load(path: Path) -> Module:
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    parts = [*FOLDERS[folder].split("."), *rest]
    is_package = parts[-1] == "__init__"
    package = parts[:-1]
    return Module(
        path=path.relative_to(ROOT).as_posix(),
        name=".".join(package if is_package else parts),
        package=".".join(package),
        tree=ast.parse(path.read_bytes(), filename=str(path)),
    )


MODULES = {
    module.name: module for folder in FOLDERS for module in map(load, sorted((ROOT / folder).rglob("*.py")))
}
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))

each_module = pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.path)


def base_of(node: ast.ImportFrom, package: str) -> str:
    """The module that `from … import` names, with its dots resolved."""
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    base = parents[: len(parents) - (node.level - 1)]
    return ".".join([*base, node.module] if node.module else base)


def imports(tree: ast.Module, package: str = "") -> Iterator[str]:
    """Every module that is imported; of `from a import b`, a.b if that is one of ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = base_of(node, package)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in MODULES else base


def area(name: str) -> str | None:
    """Which of the four parts a module belongs to, if it is ours."""
    parts = name.split(".")
    if parts[0] != "fl_main":
        return None
    two = ".".join(parts[:2])
    return two if two in MAY_IMPORT else "fl_main"


@each_module
def test_imports_run_one_way(module: Module) -> None:
    own = area(module.name)
    assert own is not None
    allowed = MAY_IMPORT[own] | ({"fl_main.db"} if module.path in COMPOSITION_ROOT else set())
    wrong = [name for name in imports(module.tree, module.package) if area(name) not in {None, *allowed}]
    assert not wrong, f"{module.path} must not import {wrong}"


@each_module
def test_folders_are_imported_by_their_full_name(module: Module) -> None:
    wrong = [
        name
        for name in imports(module.tree, module.package)
        if name.split(".")[0] in {"agent", "aggregator", "db"}
    ]
    assert not wrong, f"{module.path}: import fl_main.{wrong[0]}, or there are two copies of its classes"


def test_imports_make_no_circle() -> None:
    graph = {
        name: {other for other in imports(module.tree, module.package) if other in MODULES and other != name}
        for name, module in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        pytest.fail("modules that import each other: " + " <- ".join(exc.args[1]))


@pytest.mark.parametrize(
    "module",
    [m for m in MODULES.values() if area(m.name) == "fl_main" and m.path not in SHELLS_IN_CORE],
    ids=lambda module: module.path,
)
def test_core_opens_nothing_and_reads_no_clock(module: Module) -> None:
    wrong = [name for name in imports(module.tree, module.package) if name.split(".")[0] in OF_SHELLS]
    assert not wrong, f"{module.path} must not import {wrong}: hand it in from a shell"


@each_module
def test_no_data_is_ever_run_as_code(module: Module) -> None:
    found = [name for name in imports(module.tree, module.package) if name.split(".")[0] in RUNS_CODE]
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in RUNS_CODE_BUILTINS:
            found.append(f"{node.func.id}() in line {node.lineno}")
        found += [f"allow_pickle in line {node.lineno}" for word in node.keywords if allows_pickle(word)]
    assert not found, f"{module.path}: {found}"


def allows_pickle(word: ast.keyword) -> bool:
    is_off = isinstance(word.value, ast.Constant) and word.value.value is False
    return word.arg == "allow_pickle" and not is_off


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_examples_use_only_what_is_public(path: Path) -> None:
    used = {name for name in imports(ast.parse(path.read_bytes())) if area(name)}
    assert used <= PUBLIC, f"not public: {sorted(used - PUBLIC)}"
