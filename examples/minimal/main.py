"""The training program of this folder for three sites in one call: no daemon, no network.

python examples/minimal/main.py
"""

from train import fit, initial_weights, measure, records_of

from fl_main import Evaluation, run_local


def main() -> None:
    sites = {name: records_of(name) for name in ("site-1", "site-2", "site-3")}
    found = run_local(
        lambda task: fit(task, task.data[0]),
        sites,
        initial_weights(),
        rounds=10,
        evaluate=lambda weights, data: Evaluation(measure(weights, data[1]), len(data[1].features)),
    )
    print("round  train loss    loss  accuracy")
    for row in found.metrics:
        loss, accuracy = row["evaluate_loss"], row["evaluate_accuracy"]
        print(f"{row['round']:5}  {row['train_loss']:10.4f}  {loss:6.4f}  {accuracy:8.4f}")
    print(f"\n{found.rounds} rounds, {len(sites)} sites; loss and accuracy on their held-out flowers")


if __name__ == "__main__":
    main()
