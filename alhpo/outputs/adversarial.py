"""A discriminator between labelled and unlabelled images, trained against a variational
autoencoder.

Sinha, Ebrahimi, Darrell: Variational Adversarial Active Learning (ICCV 2019), Algorithm 1 and
equations 1 to 5. It uses the images only, not the classifier.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from alhpo.base.digests import digest
from alhpo.base.errors import CheckpointError, ConfigurationError, DivergedError
from alhpo.base.seeding import derive_seed, isolated_torch_rng
from alhpo.data.batches import DeviceImages, InputFormat
from alhpo.training.checkpoints import (
    read_checkpoint,
    restore_training,
    training_tensors,
    write_checkpoint,
)
from alhpo.training.compute import Compute

#: Dimensions of the latent space (the paper's).
LATENT = 32
#: Weight of the KL divergence, β (the paper's).
BETA = 1.0
#: Adam's learning rate for both networks (the paper's).
LEARNING_RATE = 5e-4
#: Largest number of labelled, and of unlabelled, images per step.
BATCH = 64
#: Channels of the first and of the widest convolution (the paper: 128 and 1,024).
WIDTHS = (32, 256)
#: Smallest side of an image, in pixels.
SMALLEST = 8
#: Seconds between checkpoints.
CHECKPOINT_SECONDS = 30.0


class VAE(nn.Module):
    """A convolutional β-VAE whose depth follows the size of the images.

    Each convolution (4x4, stride 2, batch norm, ReLU) halves the image until the shorter side is
    below 8 pixels; the decoder mirrors it, and gives images of the original size.

    Args:
        shape: (C, H, W) of the images.

    Raises:
        ConfigurationError: a side below 8 pixels.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        check_image_size((height, width))
        sizes, widths = [(height, width)], [channels]
        while min(sizes[-1]) >= SMALLEST:
            sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
            widths.append(min(WIDTHS[0] * 2 ** (len(widths) - 1), WIDTHS[1]))
        self._code = (widths[-1], *sizes[-1])
        flat = math.prod(self._code)
        down, up = [], []
        for before, after in itertools.pairwise(widths):
            down += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after)]
            down += [nn.ReLU()]
        layers = list(zip(widths, sizes, strict=True))
        for (after, size), (before, smaller) in reversed(list(itertools.pairwise(layers))):
            odd = (size[0] - 2 * smaller[0], size[1] - 2 * smaller[1])
            up += [nn.BatchNorm2d(before), nn.ReLU()]
            up += [nn.ConvTranspose2d(before, after, 4, 2, 1, output_padding=odd)]
        self.encoder = nn.Sequential(*down, nn.Flatten())
        self.mean, self.log_variance = nn.Linear(flat, LATENT), nn.Linear(flat, LATENT)
        self.decoder = nn.Sequential(nn.Linear(LATENT, flat), nn.Unflatten(1, self._code), *up)

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance, (B, 32) each, of the latent code."""
        hidden = self.encoder(images)
        return self.mean(hidden).float(), self.log_variance(hidden).float()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reconstruction from a code drawn from torch's generator, its mean and log-variance."""
        mean, log_variance = self.encode(images)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(code).float(), mean, log_variance


def check_image_size(size: tuple[int, int]) -> None:
    """Refuse images that are too small for the autoencoder.

    Args:
        size: (height, width) in pixels.

    Raises:
        ConfigurationError: a side below 8 pixels.
    """
    if min(size) < SMALLEST:
        raise ConfigurationError(
            f"The images are {size[0]}x{size[1]} pixels; expected are at least "
            f"{SMALLEST}x{SMALLEST}, for the autoencoder behind labeled_scores. Choose another "
            "strategy than 'vaal'."
        )


class Discriminator(nn.Module):
    """The logit (B,) of "labelled" from a latent mean: three layers, 512 wide."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(LATENT, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1)
        )

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.layers(codes).squeeze(1).float()


def negative_elbo(
    images: torch.Tensor,
    reconstruction: torch.Tensor,
    mean: torch.Tensor,
    log_variance: torch.Tensor,
) -> torch.Tensor:
    """−E[log p(x|z)] + β KL(q(z|x) ‖ N(0, I)) of each image (eq. 1), mean over the batch.

    The decoder is Gaussian with unit variance, so that, constants apart, the first term is half
    the squared error summed over pixels. (The authors' code averages it over pixels and sums the
    divergence over the batch; the latent code then holds no information.)
    """
    error = 0.5 * (reconstruction - images).square().flatten(1).sum(1)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    return (error + BETA * divergence).mean()


@dataclass(frozen=True)
class Discrimination:
    """The training of both networks for one query.

    Attributes:
        labeled: (L, H, W, C) uint8, the labelled images.
        unlabeled: (N, H, W, C) uint8, the candidates.
        form: how images are normalised and resized.
        compute: device and precision.
        epochs: passes over the candidates. Each step takes a batch of candidates and a batch of
            labelled images, which are repeated as needed.
        seed: seed of every random stream.
    """

    labeled: torch.Tensor
    unlabeled: torch.Tensor
    form: InputFormat
    compute: Compute
    epochs: int
    seed: int

    def scores(
        self, folder: Path | None = None, callback: Callable[[int], None] | None = None
    ) -> torch.Tensor:
        """Train, and score how much each candidate looks labelled.

        Args:
            folder: folder of a checkpoint, written every 30 seconds. The same training is continued
                from it exactly; the checkpoint of another training is replaced. None: no
                checkpoint.
            callback: called after every epoch with the number of epochs trained so far.

        Returns:
            (N,) float32 probabilities of "labelled".

        Raises:
            ConfigurationError: no labelled image, or images below 8x8 pixels.
            DivergedError: a loss became NaN or infinite.
        """
        if not len(self.labeled):
            raise ConfigurationError(
                "The strategy compares labelled with unlabelled images, but nothing is labelled "
                "yet. Call label_initial(n) or tell(...) first."
            )
        pair = _Pair(self)
        if folder is not None:
            try:
                pair.load(folder)
            except CheckpointError:
                pair = _Pair(self)
        last = time.monotonic()
        while pair.epoch < self.epochs:
            pair.train_epoch()
            if callback:
                callback(pair.epoch)
            if folder is not None and time.monotonic() - last > CHECKPOINT_SECONDS:
                pair.save(folder)
                last = time.monotonic()
        return pair.scores()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on."""
        return {
            "images": digest(repr(self.form), self.labeled, self.unlabeled),
            "epochs": self.epochs,
            "seed": self.seed,
            "precision": self.compute.precision,
            "settings": [LATENT, BETA, LEARNING_RATE, BATCH, *WIDTHS],
        }


class _Pair:
    """The two networks, their optimizers, and the number of epochs trained."""

    def __init__(self, task: Discrimination) -> None:
        self.epoch = 0
        self._task = task
        self._labeled, self._unlabeled = map(self._on_device, (task.labeled, task.unlabeled))
        height, width = task.form.size or task.unlabeled.shape[1:3]
        with isolated_torch_rng(torch.device("cpu"), task.seed, "weights"):
            self.vae = VAE((task.unlabeled.shape[3], height, width))
            self.judge = Discriminator()
        task.compute.place(self.vae)
        task.compute.place(self.judge)
        self._networks = [
            (f"{name}.", model, torch.optim.Adam(model.parameters(), LEARNING_RATE))
            for name, model in (("vae", self.vae), ("judge", self.judge))
        ]

    def train_epoch(self) -> None:
        """One pass over the candidates."""
        task, key = self._task, derive_seed(self._task.seed, self.epoch)
        self.vae.train()
        self.judge.train()
        total = torch.zeros((), device=task.compute.device)
        batches = zip(
            self._unlabeled.epoch(BATCH, "none", key, "unlabeled"),
            _endless(self._labeled, key),
            strict=False,
        )
        with isolated_torch_rng(task.compute.device, key, "codes"):
            for (unlabeled, _), labeled in batches:
                total += self._step(labeled, unlabeled)
        if not math.isfinite(float(total)):
            raise DivergedError(
                f"The autoencoder of strategy 'vaal' diverged in epoch {self.epoch}. Query with "
                "another strategy, such as random."
            )
        self.epoch += 1

    def _step(self, labeled: torch.Tensor, unlabeled: torch.Tensor) -> torch.Tensor:
        """One step of the VAE, which makes all codes look labelled (eq. 1 to 4), and one of the
        discriminator, which tells the same codes apart (eq. 5)."""
        (_, _, vae_optimizer), (_, _, judge_optimizer) = self._networks
        with self._task.compute.autocast():
            passes = [self.vae(images) for images in (labeled, unlabeled)]
            judged = [self.judge(mean) for _, mean, _ in passes]
        loss = _cross_entropy(judged[0], 1.0) + _cross_entropy(judged[1], 1.0)
        for images, output in zip((labeled, unlabeled), passes, strict=True):
            loss = loss + negative_elbo(images, *output)
        vae_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        vae_optimizer.step()
        with self._task.compute.autocast():
            judged = [self.judge(mean.detach()) for _, mean, _ in passes]
        verdict = _cross_entropy(judged[0], 1.0) + _cross_entropy(judged[1], 0.0)
        judge_optimizer.zero_grad(set_to_none=True)
        verdict.backward()
        judge_optimizer.step()
        return (loss + verdict).detach()

    def scores(self) -> torch.Tensor:
        self.vae.eval()
        self.judge.eval()
        with torch.inference_mode(), self._task.compute.autocast():
            parts = [
                self.judge(self.vae.encode(images)[0]).sigmoid()
                for images, _ in self._unlabeled.blocks()
            ]
        return torch.cat(parts)

    def _on_device(self, images: torch.Tensor) -> DeviceImages:
        unused = torch.zeros(len(images), dtype=torch.int64)  # batches come with labels
        return DeviceImages(images, unused, self._task.form, self._task.compute.device)

    def save(self, folder: Path) -> None:
        tensors: dict[str, torch.Tensor] = {}
        for network in self._networks:
            tensors |= training_tensors(*network)
        write_checkpoint(folder, tensors, self._task.identity | {"epoch": self.epoch})

    def load(self, folder: Path) -> None:
        tensors, description = read_checkpoint(folder)
        epoch = description.pop("epoch", 0)
        if description != self._task.identity:
            raise CheckpointError(f"The checkpoint in {folder} is of other images or settings.")
        for network in self._networks:
            restore_training(tensors, *network)
        self.epoch = epoch


def _endless(images: DeviceImages, key: int) -> Iterator[torch.Tensor]:
    """Shuffled batches without end."""
    for times in itertools.count():
        for batch, _ in images.epoch(BATCH, "none", key, "labeled", times):
            yield batch


def _cross_entropy(logits: torch.Tensor, target: float) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
