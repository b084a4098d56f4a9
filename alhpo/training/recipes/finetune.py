"""The recipe "finetune": a pretrained timm model, trained from a layer group on.

What comes before the first trained layer stays as it was pretrained. Where the model can be cut
there (``alhpo.models.cutting``), its activations are computed once for each view of an image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any, ClassVar, cast

import torch
from torch import nn

from alhpo.base.digests import digest
from alhpo.base.errors import ConfigurationError
from alhpo.base.seeding import Key
from alhpo.data.batches import DeviceImages, DeviceRows
from alhpo.data.views import ImageViews
from alhpo.hyperparameters import FinetuneHyperparameters, TrainingHyperparameters
from alhpo.models.cutting import Cut, find_cut
from alhpo.models.layer_groups import LayerGroups, layer_groups
from alhpo.models.timm_models import DropPath, ModelSpec, build_model, model_input, own_input_size
from alhpo.training.activations import PASS, Activations, ViewBatches
from alhpo.training.captured import CapturedTraining, train_captured
from alhpo.training.compute import Compute
from alhpo.training.epochs import EpochOf
from alhpo.training.recipes.network import NetworkRecipe, NetworkTraining

#: Prefix of the names of untrained tensors in checkpoints.
KEPT = "kept."
#: The rate of stochastic depth with which models are made, to learn each block's share of it.
DROP_PATH = 0.5


class FinetuneTraining:
    """The training of a network from a layer group on, with its optimizer.

    Args:
        model: the whole network on the device. What requires gradients is trained.
        steps: the training of the part of it that is trained, or of the network itself.
        batches: training images as batches that ``steps`` takes.
        kept: tensors that are not trained and that a checkpoint must hold, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: NetworkTraining | CapturedTraining,
        batches: Callable[[DeviceImages], ViewBatches],
        kept: Mapping[str, torch.Tensor],
    ) -> None:
        self.model = model
        self._steps = steps
        self._make_batches = batches
        self._kept = kept
        self._images: DeviceRows | None = None
        self._batches: ViewBatches

    def epoch(self, images: DeviceRows, epoch: int, *key: Key) -> float:
        return self._steps.epoch(self._of(images), epoch, *key)

    def captured(self, images: DeviceRows, epoch: int, *key: Key) -> EpochOf[CapturedTraining, Any]:
        """An epoch of captured steps; see ``train_captured``."""
        return EpochOf(cast(CapturedTraining, self._steps), self._of(images), epoch, key)

    def tensors(self) -> dict[str, torch.Tensor]:
        kept = {f"{KEPT}{name}": value for name, value in self._kept.items()}
        return self._steps.tensors() | kept

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        steps = {name: value for name, value in tensors.items() if not name.startswith(KEPT)}
        self._steps.restore(steps)
        state = self.model.state_dict(keep_vars=True)
        for name, value in tensors.items():
            mine = state.get(name.removeprefix(KEPT)) if name.startswith(KEPT) else None
            if mine is not None and not torch.equal(mine.cpu(), value):
                mine.data = torch.empty_like(mine).copy_(value)  # others share what was there
        self._images = None  # a captured step reads the tensors of before

    def _of(self, images: DeviceRows) -> ViewBatches:
        if self._images is not images:
            self._images, self._batches = images, self._make_batches(cast(DeviceImages, images))
        return self._batches


class FinetuneRecipe(NetworkRecipe):
    """A timm model of which the last layer groups are trained, from pretrained weights.

    Images are resized to the model's own input size unless ``spec`` has another, and the network
    is as it was pretrained, also for small images. The classifier starts at 0.
    """

    hyperparameters: ClassVar[type[TrainingHyperparameters]] = FinetuneHyperparameters
    whole: ClassVar[Mapping[str, Any]] = {"train_from": 0}

    def __init__(self, spec: ModelSpec, seed: int) -> None:
        if not spec.starts_pretrained:
            raise ConfigurationError(
                f"The recipe 'finetune' starts from pretrained weights, but those of timm model "
                f"{spec.name!r} would be random. Give pretrained (--pretrained), or a file or "
                "source of weights (--weights); or use the recipe 'network'."
            )
        size = spec.input_size or own_input_size(spec.name)
        self.spec = replace(spec, input_size=size, cifar_stem=bool(spec.cifar_stem))
        self.template = build_model(self.spec, seed, drop_path=DROP_PATH)
        #: The share of the rate of stochastic depth of each block.
        self._drop_paths = {
            name: module.drop_prob / DROP_PATH
            for name, module in self.template.named_modules()
            if isinstance(module, DropPath)
        }
        self._set_drop_path(self.template, 0.0)
        self._is_warm = False
        self._captured = {}
        self._groups: LayerGroups = layer_groups(self.template)
        with torch.no_grad():  # random logits would disturb what was pretrained in the first steps
            for name in self._groups.stages[-1]:
                self.template.get_parameter(name).zero_()
        self._forget()

    def _forget(self) -> None:
        """Forget what was derived from the template."""
        vars(self).pop("weights", None)
        self._cuts: dict[int, Cut | None] = {}
        self._digests: dict[int, str] = {}
        self._placed: dict[Compute, nn.Module] = {}

    @property
    def identity(self) -> dict[str, Any]:
        return {"finetune": self.spec.identity()}

    @property
    def input_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Those of the pretraining; for grey images their means over the channels."""
        settings = model_input(self.spec, self.template)[1]
        mean, std = tuple(settings.get("mean", ())), tuple(settings.get("std", ()))
        if mean and self.spec.in_chans == 1:
            return (sum(mean) / len(mean),), (sum(std) / len(std),)
        return (mean, std) if len(mean) == self.spec.in_chans else None

    def train_together(self, epochs: Sequence[EpochOf[FinetuneTraining, Any]]) -> list[float]:
        return train_captured(
            [one.training.captured(one.images, one.epoch, *one.key) for one in epochs]
        )

    def _training(
        self, hp: TrainingHyperparameters, max_epochs: int, compute: Compute, *, captured: bool
    ) -> FinetuneTraining:
        hp = cast(FinetuneHyperparameters, hp)
        if hp.drop_path and not any(self._drop_paths.values()):
            raise ConfigurationError(
                f"Hyperparameter drop_path is {hp.drop_path}, but timm model {self.spec.name!r} "
                "has no stochastic depth (drop_path_rate). Leave it at 0."
            )
        first = self._groups.first(hp.train_from)
        model = self._trainable(first, compute)
        self._set_drop_path(model, hp.drop_path)
        cut = self._cut(first)
        rest = model if cut is None else cut.after(model)

        def batches(images: DeviceImages) -> ViewBatches:
            views = self._views(images, hp.augmentation, hp.views)
            source = views if cut is None else self._activations(first, cut, images, views, compute)
            return ViewBatches(images, views, source)

        groups = self._parameter_groups(model, hp)
        kept: dict[str, torch.Tensor] = {}
        if self._is_warm:  # a new process has only the pretrained weights
            changing = self._changing(first)
            kept = {n: value for n, value in model.state_dict().items() if n not in changing}
        settings = self._settings(hp, max_epochs, compute)
        set_mode = partial(_set_mode, keep=hp.batch_norm == "keep")
        if captured:
            set_mode(rest)
            steps = CapturedTraining(rest, settings, groups)
        else:
            steps = NetworkTraining(rest, settings, groups, set_mode)
        return FinetuneTraining(model, steps, batches, kept)

    def from_model(self, model: nn.Module) -> FinetuneRecipe:
        other = copy.copy(self)
        other.template = model
        other._is_warm = True
        other._forget()
        return other

    def rest(
        self, model: nn.Module, images: DeviceRows, compute: Compute
    ) -> tuple[nn.Module, Iterator[tuple[torch.Tensor, torch.Tensor | None]]]:
        first = self._first_trained(model)
        cut = None if first is None else self._cut(first)
        if first is None or cut is None or not self._began(model, first, compute):
            return model, images.blocks()
        rows = images.rows
        views = self._views(cast(DeviceImages, images), "none", 1)
        source = self._activations(first, cut, cast(DeviceImages, images), views, compute)

        def blocks() -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
            for part in rows.split(PASS):
                labels = None if images.labels is None else images.labels[part]
                yield source.batch(part, torch.zeros_like(part)), labels

        return cut.after(model), blocks()

    def _trainable(self, first: int, compute: Compute) -> nn.Module:
        """A copy of the template on the device, which shares with others what is not trained."""
        if compute not in self._placed:
            self._placed[compute] = compute.place(copy.deepcopy(self.template))
        placed = self._placed[compute]
        own = self._changing(first)
        shared: dict[int, torch.Tensor] = {}
        for name, parameter in placed.named_parameters():
            if name not in own:
                shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
        shared |= {id(buffer): buffer for name, buffer in placed.named_buffers() if name not in own}
        model = copy.deepcopy(placed, shared)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in own)
        return model

    def _changing(self, first: int) -> set[str]:
        """The parameters that are trained from this group on, and the buffers beside them."""
        trained = self._groups.trained(first)
        modules = {_module_of(name) for name in trained}
        buffers = (name for name, _ in self.template.named_buffers())
        return {*trained, *(name for name in buffers if _module_of(name) in modules)}

    def _first_trained(self, model: nn.Module) -> int | None:
        """The first layer group of a model that is trained; None if there is no telling."""
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        firsts = (n for n, stage in enumerate(self._groups.stages) if trained & set(stage))
        first = next(firsts, None)
        return first if first is not None and trained == self._groups.trained(first) else None

    def _began(self, model: nn.Module, first: int, compute: Compute) -> bool:
        """Whether the untrained part of a model is that of this recipe: after a warm start it is
        that of the network fitted before."""
        changing = self._changing(first)
        mine = self._placed.get(compute, self.template).state_dict()
        return all(
            name in changing
            or value.data_ptr() == mine[name].data_ptr()
            or torch.equal(value, mine[name].to(value.device))
            for name, value in model.state_dict().items()
        )

    def _cut(self, first: int) -> Cut | None:
        """Where the model is cut for trainings from this group on; None if it is not."""
        if first not in self._cuts:
            trained = self._groups.trained(first)
            shape = (self.spec.in_chans, *(self.input_size or self.spec.image_size))
            self._cuts[first] = find_cut(self.template, trained, shape) if first else None
        return self._cuts[first]

    def _views(self, images: DeviceImages, augmentation: str, count: int) -> ImageViews:
        key = "views", augmentation, count
        if key not in images.derived:
            images.derived[key] = ImageViews(images, augmentation, count)
        return images.derived[key]

    def _activations(
        self, first: int, cut: Cut, images: DeviceImages, views: ImageViews, compute: Compute
    ) -> Activations:
        key = {
            "activations": cut.at,
            "model": self.spec.name,
            "weights": self._untrained_digest(first),
            "input": images.form.identity,
            "channels_last": images.form.channels_last,
            "image_size": list(images.values.shape[1:]),
            "precision": compute.precision,
            "device": compute.device.type,
            "versions": [torch.__version__, version("timm")],
        }
        name = "activations", digest(key), views.augmentation, views.count
        if name not in images.derived:
            images.derived[name] = Activations(
                cut.before(self._trainable(first, compute)),
                cut.shape,
                views,
                key,
                f"activations before {cut.at or 'the classifier'}, {self.spec.name}",
                compute,
            )
        return images.derived[name]

    def _untrained_digest(self, first: int) -> str:
        """Identity of the weights before the first group that is trained."""
        if first not in self._digests:
            changing = self._changing(first)
            state = self.template.state_dict().items()
            kept = [item for item in state if item[0] not in changing]
            self._digests[first] = digest(*(part for item in kept for part in item))
        return self._digests[first]

    def _parameter_groups(
        self, model: nn.Module, hp: FinetuneHyperparameters
    ) -> list[dict[str, Any]]:
        """What is trained, by the factor on its learning rate."""
        head = set(self._groups.stages[-1])
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                factor = hp.layer_decay ** self._groups.above[name] * hp.backbone_lr
                groups.setdefault(1.0 if name in head else factor, []).append(parameter)
        return [{"params": params, "lr_scale": scale} for scale, params in groups.items()]

    def _set_drop_path(self, model: nn.Module, rate: float) -> None:
        for name, share in self._drop_paths.items():
            cast(DropPath, model.get_submodule(name)).drop_prob = share * rate


def _set_mode(model: nn.Module, keep: bool) -> None:
    """Training mode, but for what is not trained and, if ``keep``, batch norms."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        untrained = parameters and not any(p.requires_grad for p in parameters)
        if untrained or (keep and hasattr(module, "running_mean")):
            module.eval()


def _module_of(name: str) -> str:
    """The module that has the tensor of this name itself."""
    return name.rpartition(".")[0]
