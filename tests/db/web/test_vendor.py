"""What others wrote and the page carries: unaltered since it was built, each with its licence."""

import hashlib
import json
from pathlib import Path

WEB = Path(__file__).resolve().parents[3] / "db" / "web"
VENDOR, NPM = WEB / "static" / "vendor", WEB / "npm"


def test_files_are_those_that_were_built() -> None:
    sums = [line.split() for line in (VENDOR / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in sums} == {path.name for path in VENDOR.iterdir()} - {"SHA256SUMS"}
    for digest, name in sums:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, f"{name}: make vendor"


def test_each_library_is_of_the_pinned_version_and_has_its_licence() -> None:
    pinned = json.loads((NPM / "package-lock.json").read_text())["packages"]
    for name in json.loads((NPM / "package.json").read_text())["dependencies"]:
        found = pinned[f"node_modules/{name}"]
        assert found["integrity"].startswith("sha512-")
        begin = f"/* {name} {found['version']}, {found['license']}: {name}.LICENSE */"
        assert (VENDOR / f"{name}.js").read_text().startswith(begin)
        assert (VENDOR / f"{name}.LICENSE").stat().st_size > 400
