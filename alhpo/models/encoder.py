"""A frozen network: from images to the features that its classifier would take."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from alhpo.base.errors import ConfigurationError
from alhpo.data.batches import InputFormat, PoolImages, Rows
from alhpo.data.file_images import FileImages
from alhpo.data.pixels import decoding_rules
from alhpo.data.stored_features import (
    EncodeProgress,
    FeatureRows,
    computed_features,
    stored_features,
)
from alhpo.models.folding import folded, has_batch_norm
from alhpo.models.timm_models import (
    ModelSpec,
    build_model,
    model_input,
    own_input_size,
    weights_hash,
)

#: Forward passes between two savings of features.
PASSES = 4
#: Mean and standard deviation per channel of weights that do not say theirs (ImageNet's).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Encoder:
    """A timm model with pretrained weights and without its classifier, in evaluation mode.

    Images are resized to the model's own input size unless ``spec`` has another, with its own
    interpolation (files that are decoded for it: bicubic), to cover the input, and cropped to the
    centre. Grey images become three equal channels. Normalisation is the model's own; so is the
    stem, unless ``spec.cifar_stem`` is set.

    Args:
        spec: the model.

    Attributes:
        width: D, the number of features.
        form: how images become model input.
        weights: identity of the weights.

    Raises:
        ConfigurationError: random weights, or a model that cannot be made.
    """

    def __init__(self, spec: ModelSpec) -> None:
        if not spec.starts_pretrained:
            raise ConfigurationError(
                f"The recipe 'frozen' takes features of timm model {spec.name!r} as they are, but "
                "its weights would be random. Give pretrained (--pretrained), or a file or source "
                "of weights (--weights)."
            )
        size = spec.input_size or own_input_size(spec.name)
        # one classifier, which nobody asks, so that features do not depend on the data's classes
        # and the network as it was trained, also for small images
        self.spec = replace(
            spec,
            num_classes=2,
            in_chans=3,
            input_size=size,
            dropout=0.0,
            cifar_stem=bool(spec.cifar_stem),
        )
        model = build_model(self.spec, 0)
        needed, settings = model_input(self.spec, model)
        self._model = model.eval().requires_grad_(False)
        mean, std = settings.get("mean", MEAN), settings.get("std", STD)
        bilinear = settings.get("interpolation") == "bilinear"
        self.form = InputFormat(
            tuple(mean),
            tuple(std),
            needed,
            interpolation="bilinear" if bilinear else "bicubic",
        )
        self.weights = weights_hash(model)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights, as a state dict of the timm model with two classes."""
        return self._model.state_dict()

    @functools.cached_property
    def width(self) -> int:
        height, width = self.form.size or self.spec.image_size
        with torch.inference_mode():
            return _features(self._model, torch.zeros(1, 3, height, width)).shape[1]

    def features(
        self,
        images: Rows,
        identities: Sequence[str],
        precision: Literal["float32", "bfloat16"],
        device: torch.device,
        what: str,
        progress: EncodeProgress | None = None,
    ) -> FeatureRows:
        """(N, D) features of images, from the cache or computed into it.

        They are kept as float32, or, computed in bfloat16, as float16. Files that are not decoded
        yet are decoded to the input size, block by block.

        Args:
            images: (N, H, W, C) uint8.
            identities: the N images.
            precision: of convolutions and matrix products.
            device: computes the features.
            what: what the images are, for people.
            progress: called with the numbers of images done and to do.

        Raises:
            DataError: features that are not finite, or a file that cannot be decoded.
        """
        if isinstance(images, FileImages) and self.form.size is not None:
            images = images.at(*self.form.size)
        channels_last = device.type == "cuda" or max(self.form.size or images.shape[1:3]) >= 16
        form = replace(self.form, channels_last=channels_last)

        @functools.cache
        def network() -> nn.Module:  # made only if something is to be encoded
            order = torch.channels_last if channels_last else torch.contiguous_format
            height, width = form.size or images.shape[1:3]
            model = folded(copy.deepcopy(self._model), (3, height, width), _outputs)
            return model.to(device, memory_format=order)  # pyright: ignore[reportCallIssue]

        def encode(rows: Sequence[int]) -> np.ndarray:
            # passes of one size: an image has the same features in the last pass as in a full one
            n, size = len(rows), per_pass
            chosen = torch.tensor([*rows, *[rows[-1]] * (-n % size)])
            source = PoolImages(images, chosen, form, device)
            found = []
            with (
                torch.inference_mode(),
                torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"),
            ):
                for inputs, _ in source.blocks():
                    found.append(_features(network(), inputs.expand(-1, 3, -1, -1)).float().cpu())
            return torch.cat(found)[:n].numpy()

        per_pass = PoolImages(images, torch.arange(0), form, device).per_pass
        key = {
            "model": self.spec.name,
            "weights": self.weights,
            "input": form.identity,
            "image_size": list(images.shape[1:]),
            "precision": precision,
            "device": device.type,
            **({"batch_norm": "folded"} if has_batch_norm(self._model) else {}),
            "versions": [torch.__version__, version("timm"), *decoding_rules()],
        }
        how: dict[str, Any] = {
            "width": self.width,
            "dtype": np.float16 if precision == "bfloat16" else np.float32,
            "encode": encode,
            "block": PASSES * per_pass,
            "progress": progress,
        }
        what = f"features of {what}, {self.spec.name}"
        stored = stored_features(key, what, identities, **how)
        return computed_features(len(identities), **how) if stored is None else stored


def _outputs(model: Any, inputs: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [_features(model, inputs)]


def _features(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    """(B, D) penultimate features."""
    hidden = model.forward_head(model.forward_features(inputs), pre_logits=True)
    return hidden.flatten(1)
