"""Active learning on a timm model, with the flags of HPO4DL's ``examples/timm_main.py``.

    python examples/timm_al.py --dataset torch/cifar100 --train-split train \\
        --val-split validation --optimizer dyhpo --output-dir ./hpo4dl_results

searches the hyperparameters anew in every cycle; ``--hpo fixed`` is the baseline without a search,
``--hpo every:5`` and ``--hpo final`` search now and then, or once at the end.
"""

import argparse
import sys

from alhpo import AlhpoError, RunConfig, run_experiment
from alhpo.reports import write_report
from alhpo.runs.progress import RichObserver, make_console
from alhpo.strategies import strategy_names
from alhpo.tuning import optimizer_names

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
# HPO4DL's flags, with its names and defaults
parser.add_argument("--output-dir", default="./hpo4dl_results", help="results are written here")
parser.add_argument("--storage-dir", help="checkpoints of the search; default: with the results")
parser.add_argument("--dataset", default="torch/cifar10", help="timm name, folder, or digits")
parser.add_argument("--dataset-dir", help="where timm keeps its data sets")
parser.add_argument("--train-split", default="train", help="the split that is the pool")
parser.add_argument("--val-split", default="validation", help="the evaluation split")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--optimizer", default="dyhpo", help=", ".join(optimizer_names()))
parser.add_argument("--max-epochs", type=int, default=27, help="epochs of a full training")
parser.add_argument("--max-budget", type=int, default=1000, help="epochs of one search")
parser.add_argument("--num-config", type=int, default=1000, help="configurations to choose from")
# active learning
parser.add_argument("--model", default="resnet18", help="any timm name")
parser.add_argument("--pretrained", action="store_true")
parser.add_argument("--weights", help="a file of weights, or efficientnet-lite0")
parser.add_argument("--strategy", default="badge", help=", ".join(strategy_names()))
parser.add_argument("--hpo", default="per-cycle", help="fixed, per-cycle, every:K or final")
parser.add_argument("--space", default="hpo4dl", help="paper, hpo4dl, or a ConfigSpace file")
parser.add_argument("--validation", default="holdout:0.2", help="random:F, holdout:F or kfold:K")
parser.add_argument("--initial-size", type=int, default=100, help="random initial labels")
parser.add_argument("--acquisition-size", type=int, default=100, help="labels per cycle")
parser.add_argument("--budget", type=int, default=4000, help="labels at the end")
parser.add_argument("--query-subset", type=int, help="the strategy looks at so many images")
parser.add_argument("--pool-size", type=int, help="random subset of the pool to keep")
parser.add_argument("--eval-size", type=int, help="random subset to evaluate on")
parser.add_argument("--device", default="auto")
parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
args = vars(parser.parse_args())

try:
    config = RunConfig.create(
        {
            "data_dir": args.pop("dataset_dir"),
            "num_configurations": args.pop("num_config"),
            **args,
        }
    )
    with RichObserver() as observer:
        result = run_experiment(config, observer=observer)
    write_report(result.path).to_console(make_console())
except AlhpoError as error:
    sys.exit(f"{parser.prog}: {error}")
