"""Fuzz every target, each in a process of its own, and print the record.

python -m fuzz [--inputs 1000000] [--seed 0] [TARGET …]
"""

import argparse
import json
import platform
import subprocess
import sys
from importlib.metadata import version
from itertools import groupby
from typing import Any

from fl_main import __version__

# What part of the inputs each target gets; one of the port or the agent costs a hundred of the codec's.
PARTS = {"codec": 30, "session": 8, "layout": 20, "packed": 5, "encoded": 5, "agent": 5, "daemon": 32}
BUILT_ON = ["msgpack", "pydantic", "websockets", "numpy"]


def main() -> None:
    """Run what was asked for, and end with an error if a target failed."""
    parser = argparse.ArgumentParser(
        description="Fuzz the codec, the session, layouts, what is packed or encoded, an agent and a daemon."
    )
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"of {', '.join(PARTS)}; all, if none is given"
    )
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = options.targets or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"there is no target {unknown[0]!r}; there are {', '.join(PARTS)}")
    built_on = ", ".join(f"{name} {version(name)}" for name in BUILT_ON)
    print(
        f"fl_main {__version__}, Python {platform.python_version()}, {built_on}; seed {options.seed}",
        flush=True,
    )
    whole = sum(PARTS[name] for name in names)
    failed = [
        name for name in names if not run(name, -(-options.inputs * PARTS[name] // whole), options.seed)
    ]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    print(f"\nno target failed: at least {options.inputs:,} inputs, no crash, no hang, no traceback")


def run(name: str, inputs: int, seed: int) -> bool:
    """Fuzz one target, print what became of it, and return whether all went well."""
    module = [f"fuzz.{name}"] if name in ("agent", "daemon") else ["fuzz.guided", name]
    done = subprocess.run(
        [sys.executable, "-m", *module, str(inputs), str(seed)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"\n{name}: FAILED\n{done.stdout}\n{done.stderr}", flush=True)
        return False
    print("\n" + described(name, json.loads(done.stdout.splitlines()[-1])), flush=True)
    return True


def described(name: str, facts: dict[str, Any]) -> str:
    """Return the facts of one target for people."""
    rate = facts["inputs"] / facts["seconds"]
    lines = [
        f"{name} ({facts['engine']}): {facts['inputs']:,} inputs in {facts['seconds']:.0f} s, {rate:.0f}/s"
    ]
    if "slowest_s" in facts:
        lines.append(f"  slowest input: {facts['slowest_s']:.2f} s")
    if "rounds" in facts:
        lines.append(f"  rounds that an agent of good manners took part in meanwhile: {facts['rounds']}")
    lines.append(f"  memory of the process, MB: {_some(facts['memory_mb'])}")
    for _, outcomes in groupby(sorted(facts["outcomes"].items()), lambda item: item[0].partition(": ")[0]):
        lines += _outcomes(list(outcomes))
    return "\n".join(lines)


def _outcomes(outcomes: list[tuple[str, int]]) -> list[str]:
    return [f"  {count:9,}  {outcome}" for outcome, count in sorted(outcomes, key=lambda item: -item[1])]


def _some(memory_mb: list[int]) -> str:
    """Return the first, the last, and some in between."""
    step = max(1, len(memory_mb) // 10)
    return " ".join(map(str, [*memory_mb[:-1:step], memory_mb[-1]]))


if __name__ == "__main__":
    main()
