"""A CNN learns from the images of several agents: a daemon and the agents, each a process.

python examples/image_classification/main.py
python examples/image_classification/main.py --agents 4 --label-skew 0.3
python examples/image_classification/main.py --cifar10 FOLDER
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import images
import network
import torch
import yaml

from fl_main.agent.torch import set_weights
from fl_main.db import ModelDB
from fl_main.errors import FLError

CLIENT = Path(__file__).with_name("client.py")
RUN = "image-classification"
PATIENCE_S = 300.0  # without a new round, something is taken for stuck


class ExampleError(Exception):
    """Something fell short; the text says what."""


def main() -> int:
    given = parsed()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the other processes, too
    try:
        with ExitStack() as stack:
            folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise ExampleError(f"{folder} is not empty; name another --folder")
            show(given, folder)
    except (ExampleError, FLError, images.DataError, OSError, subprocess.TimeoutExpired) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=3, help="at least 2 (default 3)")
    rounds = "global models to make (default 20; with CIFAR-10, where a round takes longer, 5)"
    parser.add_argument("--rounds", type=int, help=rounds)
    skew = (
        "how unevenly labels are spread: 0.3 very, 100 hardly (a Dirichlet distribution); 0 (default) evenly"
    )
    parser.add_argument("--label-skew", type=float, default=0.0, metavar="ALPHA", help=skew)
    cifar10 = "train on CIFAR-10: where its binary version lies (data_batch_1.bin, …)"
    parser.add_argument("--cifar10", type=Path, metavar="FOLDER", help=cifar10)
    parser.add_argument("--seed", type=int, default=0, help="of the parts and the first network (default 0)")
    parser.add_argument("--folder", type=Path, help="an empty one, to keep the model database in")
    given = parser.parse_args()
    given.rounds = (5 if given.cifar10 else 20) if given.rounds is None else given.rounds
    if given.agents < 2 or given.rounds < 1 or given.label_skew < 0:
        parser.error("--agents must be at least 2, --rounds at least 1, --label-skew at least 0")
    return given


def show(given: argparse.Namespace, folder: Path) -> None:
    began = time.monotonic()
    everything, test = images.load(given.cifar10, given.seed)
    parts = [
        images.part(everything, agent, given.agents, given.label_skew, given.seed)[0]
        for agent in range(given.agents)
    ]
    for agent, mine in enumerate(parts):
        counts = torch.bincount(mine.labels, minlength=images.CLASSES).tolist()
        print(f"agent-{agent}: {len(mine):5} images, by label {counts}")
    config = {"epochs": 1 if given.cifar10 else 2, "rate": 0.05, "batch": 64 if given.cifar10 else 32}
    write_settings(given, folder, config)
    train_federatedly(given, folder)
    print(f"\n{time.monotonic() - began:.0f} s; now one network on all these images in one place ...")
    net = network.make(test, given.seed)
    with ModelDB(folder / "models") as db:
        set_weights(net, db.run(RUN).final.weights())
    print(f"\nOn the same {len(test)} test images:\n\nmodel      accuracy    loss", flush=True)
    print_row("federated", network.measure(net, test))
    print_row("pooled", network.measure(train_pooled(given, config, parts), test))
    print(f"\n{time.monotonic() - began:.0f} s in total")
    if given.folder:
        print(f"The model database: fl db rounds --folder {folder / 'models'}")


def print_row(name: str, found: dict[str, float]) -> None:
    print(f"{name:10} {found['accuracy']:8.4f} {found['loss']:7.4f}", flush=True)


def write_settings(given: argparse.Namespace, folder: Path, config: dict[str, float]) -> None:
    run = {
        "name": RUN,
        "seed": given.seed,
        "round": {"min_agents": given.agents, "min_updates": given.agents},
        "end": {"rounds": given.rounds},
        "best": {"metric": "accuracy", "direction": "max"},
        "config": config,
    }
    # Port 0: the system chooses a free one.
    aggregator = {"listen": {"port": 0}, "database": {"folder": str(folder / "models")}, "runs": ["run.yaml"]}
    (folder / "run.yaml").write_text(yaml.safe_dump(run, sort_keys=False))
    (folder / "aggregator.yaml").write_text(yaml.safe_dump(aggregator, sort_keys=False))


def train_federatedly(given: argparse.Namespace, folder: Path) -> None:
    settings = folder / "aggregator.yaml"
    with ExitStack() as stack:  # ends what it started in reverse order: agents first
        log = folder / "aggregator.log"
        daemon = stack.enter_context(process(log, "-m", "fl_main.aggregator", "--settings", settings))
        url = listening(daemon, log)
        options = ["--agents", given.agents, "--label-skew", given.label_skew, "--seed", given.seed]
        options += ["--cifar10", given.cifar10] if given.cifar10 else []
        running = {"aggregator": daemon}
        for agent in range(given.agents):
            own = ["--agent", agent, "--state-folder", folder / f"agent-{agent}"]
            client = process(
                folder / f"agent-{agent}.log", CLIENT, "--url", url, "--run", RUN, *own, *options
            )
            running[f"agent-{agent}"] = stack.enter_context(client)
        with ModelDB(folder / "models") as db:
            follow(db, running, folder)
        for name in list(running)[1:]:
            if running[name].wait(30):  # until it has the final model
                raise ExampleError(f"{name} ended: {(folder / f'{name}.log').read_text().strip()}")


@contextmanager
def process(log: Path, *args: object) -> Iterator[subprocess.Popen]:
    """Run a Python program until the block ends; what it prints goes to a file."""
    # Variables such as FL_RUN_SEED would change the settings of this example.
    env = {name: value for name, value in os.environ.items() if not name.startswith("FL_")}
    with open(log, "w") as out:
        running = subprocess.Popen([sys.executable, *map(str, args)], stdout=out, stderr=out, env=env)
    try:
        yield running
    finally:
        running.terminate()
        running.wait()


def listening(daemon: subprocess.Popen, log: Path) -> str:
    """Return where the daemon listens, once it says so."""
    while daemon.poll() is None:
        if found := re.search(r"listening url=(\S+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise ExampleError(f"the aggregator did not start: {log.read_text().strip()}")


def follow(db: ModelDB, running: dict[str, subprocess.Popen], folder: Path) -> None:
    """Print a row for each round, out of the model database, until the run is over."""
    print("\nround  train loss    loss  accuracy   bytes  seconds")
    shown, changed_at = 0, time.monotonic()
    while True:
        is_over = db.run(RUN).status.is_over
        for entry in db.run(RUN).rounds():
            if entry.round_id > shown and "accuracy" in entry.evaluate:
                shown, changed_at = entry.round_id, time.monotonic()
                loss, held_out = entry.train["loss"].value, entry.evaluate
                print(
                    f"{shown:5} {loss:11.4f} {held_out['loss'].value:7.4f} {held_out['accuracy'].value:9.4f}"
                    f" {entry.size:7} {entry.seconds or 0:8.2f}",
                    flush=True,
                )
        if is_over:
            return
        for name, one in running.items():
            if one.poll():
                raise ExampleError(f"{name} ended: {(folder / f'{name}.log').read_text().strip()}")
        if time.monotonic() - changed_at > PATIENCE_S:
            raise ExampleError(f"no round was completed for {PATIENCE_S:.0f} s; see the logs in --folder")
        time.sleep(0.1)


def train_pooled(given, config, parts: list[images.Images]) -> network.Network:
    """Train on all the agents' images in one place, as often as the agents saw theirs."""
    pooled = images.Images(torch.cat([p.pixels for p in parts]), torch.cat([p.labels for p in parts]))
    net = network.make(pooled, given.seed)
    network.train(net, pooled, **config | {"epochs": config["epochs"] * given.rounds}, seed=given.seed)
    return net


if __name__ == "__main__":
    sys.exit(main())
