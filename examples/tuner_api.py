"""Active learning with hyperparameters tuned in every cycle, in your own loop.

python examples/tuner_api.py                    # alhpo's Tuner, which a kill does not hurt
python examples/tuner_api.py --tuner hpo4dl     # HPO4DL's own (pip install "alhpo[hpo4dl]")
"""

import argparse

from alhpo import ActiveLearner, Tuner, load_dataset

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--tuner", choices=["alhpo", "hpo4dl"], default="alhpo")
parser.add_argument("--optimizer", choices=["dyhpo", "hyperband"], default="dyhpo")
parser.add_argument("--max-epochs", type=int, default=27)
parser.add_argument("--max-budget", type=int, default=60)
parser.add_argument("--labels", type=int, default=200)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--output-dir", default="runs/tuner_api")
args = parser.parse_args()

if args.tuner == "hpo4dl":
    from hpo4dl.tuner import Tuner

learner = ActiveLearner(
    load_dataset("digits"),
    model="resnet18",
    strategy="badge",
    seed=args.seed,
    max_epochs=args.max_epochs,  # of the trials, and of the final fit
)
learner.label_initial(100)
while True:
    objective = learner.objective()  # this cycle's training, resumable
    incumbent = Tuner(
        objective_function=objective,
        configuration_space=objective.configuration_space,
        minimize=False,
        max_epochs=args.max_epochs,
        max_budget=args.max_budget,
        optimizer=args.optimizer,
        seed=args.seed,
        num_configurations=200,
        output_path=args.output_dir,
        storage_path=args.output_dir,
    ).run()
    test = learner.fit(incumbent["configuration"])
    print(
        f"{learner.n_labeled} labels: validation {incumbent['metric']:.3f} with "
        f"{incumbent['configuration']}, test accuracy {test.accuracy:.3f}"
    )
    if learner.n_labeled >= args.labels:
        break
    learner.query(min(50, args.labels - learner.n_labeled))
