"""Parts of the code of Huseljic et al. (2023) beside alhpo's: do they compute the same?

    git clone https://github.com/dhuseljic/dal-toolbox && git -C dal-toolbox checkout fe2b227e
    python benchmarks/paper_protocol.py dal-toolbox

The modules of dal-toolbox are imported one by one, without its requirements. What this prints is in
``docs/paper-protocol.md``, with what it means. Some seconds on one core.
"""

from __future__ import annotations

import copy
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as on_image

from alhpo.base.types import PoolOutputs
from alhpo.data.batches import DeviceImages, InputFormat
from alhpo.hyperparameters import Hyperparameters
from alhpo.models.timm_models import ModelSpec, build_model
from alhpo.strategies import get_strategy
from alhpo.training.epochs import learning_rate

EPOCHS, WARMUP = 200, 10
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.262)
CPU = torch.device("cpu")


def main(folder: Path) -> None:
    published = Published(folder)
    print(f"learning rates: largest relative difference {schedule(published):.0e}")
    for classes in (10, 100):
        print(f"ResNet-18 with {classes} classes: {network(published, classes)}")
    print(f"initial weights: {initial_weights(published)}")
    print(f"augmented and normalised images: largest difference {augmentation():.0e}")
    for name, choices in (("badge", badge_choices), ("coreset", coreset_choices)):
        same = sum(a == b for a, b in (choices(published, seed) for seed in range(20)))
        print(f"{name}: the same 30 choices in the same order for {same} of 20 pools")
    for spread in (1e-2, 1e-3, 3e-4):
        numbers = [distinct_choices(published, spread, seed) for seed in range(3)]
        print(f"coreset there, features a constant ± {spread:g}: {numbers} of 100 are distinct")


class Published:
    """Modules of a checkout of dal-toolbox, whose packages are not executed."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "dal_toolbox").is_dir():
            raise SystemExit(f"{folder} is no checkout of dal-toolbox: it has no dal_toolbox.")
        inside = ("", ".active_learning", ".active_learning.strategies", ".models")
        for name in (*inside, ".models.deterministic", ".models.utils"):
            package = types.ModuleType(f"dal_toolbox{name}")
            package.__path__ = [str(folder / package.__name__.replace(".", "/"))]
            sys.modules[package.__name__] = package
        utils: Any = types.ModuleType("dal_toolbox.utils")  # imports Lightning
        utils.setup_rng = lambda seed=None: None
        sys.modules[utils.__name__] = utils

    def __getitem__(self, name: str) -> Any:
        return importlib.import_module(f"dal_toolbox.{name}")


def schedule(published: Published) -> float:
    """Largest relative difference of the learning rates of a cycle and of one after its reset."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    optimizer = torch.optim.SGD([parameter], lr=0.01, momentum=0.9)
    make = published["models.utils.lr_scheduler"].CosineAnnealingLRLinearWarmup
    scheduler = make(optimizer, num_epochs=EPOCHS, warmup_epochs=WARMUP)
    begin = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    hp = Hyperparameters.create({"lr": 0.01, "warmup_epochs": WARMUP})
    worst = 0.0
    for _ in range(2):
        optimizer.load_state_dict(begin[0])
        scheduler.load_state_dict(begin[1])
        for epoch in range(EPOCHS):
            ours = learning_rate(hp, epoch, EPOCHS)
            worst = max(worst, abs(optimizer.param_groups[0]["lr"] / ours - 1))
            optimizer.step()
            scheduler.step()
    return worst


def network(published: Published, classes: int) -> str:
    """Number of parameters, and differences of the outputs for the same weights."""
    theirs = published["models.deterministic.resnet"].ResNet18(classes)
    ours = _resnet18(classes)
    ours.load_state_dict({_ours(name): value for name, value in theirs.state_dict().items()})
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    apart = []
    for training in (True, False):
        outputs = [model.train(training)(images).detach() for model in (theirs, ours)]
        apart.append(float((outputs[0] - outputs[1]).abs().max()))
    counts = [sum(p.numel() for p in model.parameters()) for model in (theirs, ours)]
    return (
        f"{counts[0]:,} and {counts[1]:,} parameters, logits differ by at most {apart[0]:.0e} in "
        f"training and {apart[1]:.0e} in evaluation"
    )


def initial_weights(published: Published) -> str:
    """Whether constants are equal, and the bound of the others times the root of the fan-in."""
    theirs = dict(published["models.deterministic.resnet"].ResNet18(10).named_parameters())
    theirs = {_ours(name): value for name, value in theirs.items()}
    bounds: list[tuple[float, ...]] = []
    for name, value in _resnet18(10).named_parameters():
        if value.dim() > 1:
            root = value[0].numel() ** 0.5
            bounds.append(
                tuple(float(p.detach().abs().max()) * root for p in (theirs[name], value))
            )
        elif "fc" not in name and not torch.equal(theirs[name], value):
            return f"{name} differs"
    low, high = np.min(bounds, axis=0), np.max(bounds, axis=0)
    return (
        "batch norms equal; uniform up to "
        f"{low[0]:.3f}-{high[0]:.3f} there and {low[1]:.3f}-{high[1]:.3f} here, over √fan-in"
    )


def augmentation() -> float:
    """Largest difference of a batch from torchvision's transforms with the same crops and flips."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 32, 32, 3), generator=generator, dtype=torch.uint8)
    labels = torch.zeros(6, dtype=torch.int64)
    images = DeviceImages(pixels, labels, InputFormat(MEAN, STD), CPU)
    plan = images.plan(6, "crop-flip", 0)
    chosen, rows, columns = (part[0] for part in plan.parts)
    batch, _ = images.batch(plan.source, chosen, rows, columns)
    normalize = transforms.Normalize(MEAN, STD)
    worst = 0.0
    for got, index, row, column in zip(batch, chosen.tolist(), rows, columns, strict=True):
        image: Any = Image.fromarray(pixels[index].numpy())
        image = on_image.pad(image, [4], fill=0)
        image = on_image.crop(image, int(row[0]), int(column.min()), 32, 32)
        if column[0] > column[1]:
            image = on_image.hflip(image)
        worst = max(worst, float((normalize(on_image.to_tensor(image)) - got).abs().max()))
    return worst


class Uniforms:
    """One stream of uniforms, as both implementations ask for it."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def random(self) -> float:
        return self._generator.random()

    def choice(self, among: range, p: np.ndarray) -> int:
        cumulated = np.cumsum(p)
        return among[np.searchsorted(cumulated / cumulated[-1], self.random(), side="right")]


def badge_choices(published: Published, seed: int) -> tuple[list[int], list[int]]:
    """30 choices there and here among 400 images, with the same uniforms."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(400, 10, generator=generator)
    features = torch.randn(400, 32, generator=generator).abs()
    probabilities = logits.double().softmax(1)
    of_outputs = torch.nn.functional.one_hot(probabilities.argmax(1), 10) - probabilities
    gradients = (of_outputs[:, :, None] * features[:, None]).flatten(1).numpy()
    kmeans = published["active_learning.strategies.badge"].kmeans_plusplus
    pool = PoolOutputs(torch.arange(400), logits=logits, features=features)
    ours: Any = get_strategy("badge")
    return (
        [int(i) for i in kmeans(gradients, 30, Uniforms(seed))],
        [*ours(pool, 30, Uniforms(seed)).indices],
    )


def coreset_choices(published: Published, seed: int) -> tuple[list[int], list[int]]:
    """30 choices there and here among 400 images, with 60 labels."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(400, 32, generator=generator).abs()
    labeled = torch.randn(60, 32, generator=generator).abs()
    pool = PoolOutputs(torch.arange(400), features=features, labeled_features=labeled)
    ours: Any = get_strategy("coreset")
    return _kcenter(published, features, labeled, 30), [*ours(pool, 30, None).indices]


def distinct_choices(published: Published, spread: float, seed: int) -> int:
    """How many of 100 choices there are distinct if all features are nearly the same."""
    generator = torch.Generator().manual_seed(seed)
    constant = torch.rand(512, generator=generator)
    features = constant + spread * torch.randn(1000, 512, generator=generator)
    labeled = constant + spread * torch.randn(500, 512, generator=generator)
    return len(set(_kcenter(published, features, labeled, 100)))


def _kcenter(
    published: Published, features: torch.Tensor, labeled: torch.Tensor, n: int
) -> list[int]:
    strategy = published["active_learning.strategies.coreset"].CoreSet()
    return [int(i) for i in strategy.kcenter_greedy(features, labeled, n)]


def _resnet18(classes: int) -> torch.nn.Module:
    spec = ModelSpec("resnet18", classes, 3, (32, 32), cifar_stem=True, init="torch")
    return build_model(spec, 0)


def _ours(name: str) -> str:
    return name.replace("shortcut", "downsample").replace("linear", "fc")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {sys.argv[0]} CHECKOUT_OF_DAL_TOOLBOX")
    main(Path(sys.argv[1]))
