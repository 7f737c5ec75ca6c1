"""One hospital: a program of its own that takes part in the training with its own records.

Start it by hand once a daemon runs; `main.py` starts four of them:

    python examples/breast_cancer/hospital.py --url ws://127.0.0.1:8765 --data demo/hospitals/st-mary.npz
"""

import argparse
import sys
from pathlib import Path

import data
import model

from fl_main.agent import Agent, Evaluation, FLError


def take_part(url: str, run: str, file: Path, state_folder: Path | None) -> None:
    hospital = data.load(file)

    def evaluate(weights: model.Weights) -> Evaluation:
        return Evaluation(model.measure(weights, hospital.held_out), num_examples=len(hospital.held_out))

    with Agent(
        url,
        run,
        name=file.stem,
        evaluate=evaluate,
        statistics=lambda: model.sums(hospital.train),
        state_folder=state_folder,
    ) as agent:
        for task in agent.tasks():
            scale = model.scale_of(task.statistics)  # of all hospitals together
            weights = model.train(task.weights, hospital.train, scale, task.config, task.seed)
            metrics = model.measure(weights, hospital.train)
            task.submit(weights, num_examples=len(hospital.train), metrics=metrics)
            print(f"round {task.round_id}: loss {metrics['loss']:.4f} on {len(hospital.train)} records")
    print(f"the run {agent.final.status}: {agent.final.reason}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="ws://127.0.0.1:8765", help="where the aggregator listens")
    parser.add_argument("--run", default="breast-cancer", help="run to take part in")
    parser.add_argument("--data", type=Path, required=True, help="this hospital's records, an .npz file")
    parser.add_argument("--state-folder", type=Path, help="where the agent keeps its identity and outbox")
    given = parser.parse_args()
    try:
        take_part(given.url, given.run, given.data, given.state_folder)
    except (FLError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
