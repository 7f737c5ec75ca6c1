"""The whole of it by one command: an aggregator daemon and four hospitals, five processes.

python examples/breast_cancer/main.py --folder demo
python examples/breast_cancer/main.py --seeds 10
"""

import argparse
import os
import sys
import time
from pathlib import Path

import compare
import data
import watch
from check import check_database
from prepare import RUN, fresh_folder, prepare
from processes import DemoError, Processes

from fl_main.db import ModelDB
from fl_main.errors import FLError

HERE = Path(__file__).resolve().parent
PLAUSIBLE_ACCURACY = 0.9  # always saying "benign" has 0.63


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=Path("demo"), help="for all files; made anew each time"
    )
    parser.add_argument("--rounds", type=at_least_one, default=12, help="global models to make (default 12)")
    parser.add_argument(
        "--seed", type=not_negative, default=0, help="of split, first model and training (default 0)"
    )
    parser.add_argument("--seeds", type=at_least_one, help="compare over so many splits, in this one process")
    parser.add_argument("--port", type=int, default=0, help="of the daemon; 0 (default) takes a free one")
    given = parser.parse_args()
    try:
        if given.seeds:
            return _fell_short(compare.over_seeds(given.rounds, given.seeds))
        with fresh_folder(given.folder):
            demo(given.folder, given.rounds, given.seed, given.port)
    except (DemoError, FLError, OSError) as error:
        return _fell_short(str(error))
    except ImportError as error:
        return _fell_short(f"{error.name} is not installed: pip install 'fl_main[sklearn]'")
    except KeyboardInterrupt:
        print("\nstopped; nothing is left running", file=sys.stderr)
        return 130
    return 0


def demo(folder: Path, rounds: int, seed: int, port: int) -> None:
    began = time.monotonic()
    hospitals, test = data.split(seed)
    prepare(folder, hospitals, rounds, seed, port)
    with Processes(folder / "logs") as processes:
        processes.start("aggregator", "-m", "fl_main.aggregator", "--settings", folder / "aggregator.yaml")
        url = processes.wait_for("aggregator", r"listening url=(\S+)")
        print(f"The aggregator listens at {url}; four hospitals join it, each a process of its own:")
        for name, hospital in hospitals.items():
            malignant = int((hospital.train.labels == 0).sum())
            print(f"  {name:10} {len(hospital.train):4} training records, {malignant:3} of them malignant")
            processes.start(
                name,
                *(HERE / "hospital.py", "--url", url, "--data", folder / "hospitals" / f"{name}.npz"),
                *("--run", RUN, "--state-folder", folder / "agents" / name),
            )
        print("\ntrain loss: of local models; loss, accuracy: of the global model, on held-out records\n")
        with ModelDB(folder / "models") as db:
            watch.follow(db, RUN, processes)
        processes.finish()
    with ModelDB(folder / "models") as db:
        final = check_database(db, rounds, len(hospitals))
        found = compare.compare(final.weights(), hospitals, test, rounds, seed)
    print_comparison(found, len(test))
    print(f"\nFinal model {final.digest}\n{time.monotonic() - began:.1f} s in total")
    if not found[compare.FEDERATED]["accuracy"] >= PLAUSIBLE_ACCURACY:
        raise DemoError(f"an accuracy of {found[compare.FEDERATED]['accuracy']:.4f} is not plausible")
    print_next_steps(folder)


def print_comparison(found: dict[str, dict[str, float]], num_test: int) -> None:
    print(f"\nOn the same {num_test} records, which none of these models was trained on:\n")
    print("model       trained on  accuracy  log loss")
    for name, row in found.items():
        text = f"{name:10} {row['records']:11} {row['accuracy']:9.4f} {row['loss']:9.4f}"
        print(text + ("   (every record in one place)" if name == compare.POOLED else ""))


def print_next_steps(folder: Path) -> None:
    installed = Path(sys.executable).with_name("fl")  # in a virtual environment that may not be active
    fl = os.path.relpath(installed) if installed.exists() else "fl"
    models = folder / "models"
    print(f"""
Look into the model database:
  {fl} db rounds --folder {models}
  {fl} db show {RUN}:best --folder {models}
  {fl} db verify --folder {models}
Start your own, in three terminals (README.md, "Quick start"):
  {fl} aggregator
  {fl} agent --settings setting/agent.yaml --name site-1 examples/minimal/train.py:train
  {fl} agent --settings setting/agent.yaml --name site-2 examples/minimal/train.py:train""")


def at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def not_negative(text: str) -> int:
    if (number := int(text)) < 0:
        raise ValueError
    return number


def _fell_short(reason: str) -> int:
    if reason:
        print(f"error: {reason}", file=sys.stderr)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
