"""One agent: it has its own images, and takes part in the training of one network for all.

`main.py` starts several. By hand, beside a daemon that has the run:

    python examples/image_classification/client.py --agent 0 --agents 3 --url ws://127.0.0.1:8765
"""

import argparse
import sys
from pathlib import Path

import images
import network
import torch

from fl_main.agent import Agent, Evaluation, FLError
from fl_main.agent.torch import get_weights, set_weights


def take_part(given: argparse.Namespace) -> None:
    # Every agent reads all images and keeps its part; a real one has no others.
    everything, _ = images.load(given.cifar10, given.seed)
    mine, held_out = images.part(everything, given.agent, given.agents, given.label_skew, given.seed)
    net = network.make(mine, given.seed)

    def evaluate(weights) -> Evaluation:
        set_weights(net, weights)
        return Evaluation(network.measure(net, held_out), num_examples=len(held_out))

    with Agent(
        given.url,
        given.run,
        name=f"agent-{given.agent}",
        initial_weights=get_weights(net),
        evaluate=evaluate,
        state_folder=given.state_folder,
    ) as agent:
        for task in agent.tasks():
            set_weights(net, task.weights)
            loss = network.train(net, mine, **task.config, seed=task.seed)
            task.submit(get_weights(net), num_examples=len(mine), metrics={"loss": loss})
            print(f"round {task.round_id}: loss {loss:.4f} on {len(mine)} images", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="ws://127.0.0.1:8765", help="where the aggregator listens")
    parser.add_argument("--run", default="image-classification", help="run to take part in")
    parser.add_argument("--agent", type=int, default=0, help="which of the agents this is, from 0 on")
    parser.add_argument("--agents", type=int, default=3, help="how many share the images")
    parser.add_argument("--label-skew", type=float, default=0.0, help="see main.py; the same for all")
    parser.add_argument("--cifar10", type=Path, help="folder with CIFAR-10's binary version; else digits")
    parser.add_argument("--seed", type=int, default=0, help="of the parts and the first network")
    parser.add_argument("--state-folder", type=Path, help="where the agent keeps its identity and outbox")
    torch.set_num_threads(1)  # several agents share this machine
    try:
        take_part(parser.parse_args())
    except (FLError, images.DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
