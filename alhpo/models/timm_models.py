"""timm models: made for the data, from named random weights, with their penultimate features."""

from __future__ import annotations

import copy
import warnings
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import nn

from alhpo.base.digests import digest
from alhpo.base.errors import ConfigurationError
from alhpo.base.schema import unknown_name
from alhpo.base.seeding import isolated_torch_rng
from alhpo.models.check import NotOnMeta, check_model, may_be_of_meta

with warnings.catch_warnings():
    # timm 0.9 uses torch.jit, of which newer torch warns at import
    warnings.simplefilter("ignore", FutureWarning)
    import timm

#: Whose random initial weights a model gets.
Init = Literal["timm", "torch"]
#: Below this many pixels on the longer side, images get the CIFAR stem unless told otherwise.
SMALL_IMAGE = 64


@dataclass(frozen=True)
class ModelSpec:
    """A timm model and what it is made for.

    Attributes:
        name: any name that ``timm.create_model`` takes.
        num_classes: C of the data set.
        in_chans: channels of the images.
        image_size: (height, width) of the images, in pixels.
        pretrained: start from timm's pretrained weights.
        cifar_stem: 3x3 stride-1 stem without max-pool (timm's ResNet family); None chooses it for
            images below 64 pixels.
        input_size: pixels to which images are resized on the device; None keeps their size, or
            takes the model's where the architecture accepts no other (such as ViT).
        dropout: probability of dropping a feature before the classifier, timm's ``drop_rate``.
        init: whose random initial weights: "timm", those its authors chose for the architecture, or
            "torch", PyTorch's defaults for every layer, as in the code of Huseljic et al. (2023).
    """

    name: str
    num_classes: int
    in_chans: int
    image_size: tuple[int, int]
    pretrained: bool = False
    cifar_stem: bool | None = None
    input_size: int | None = None
    dropout: float = 0.0
    init: Init = "timm"

    def identity(self) -> dict[str, Any]:
        """The spec as a JSON-able mapping, which names dropout and ``init`` only where they are not
        the defaults."""
        identity = asdict(self) | {"image_size": list(self.image_size)}
        if not self.dropout:
            del identity["dropout"]
        if self.init == "timm":
            del identity["init"]
        return identity


def check_model_name(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        ConfigurationError: with the closest legal names.
    """
    if ":" in name or timm.is_model(name.split(".")[0]):
        return
    error = unknown_name("timm model", name, timm.list_models())
    message = str(error).split(" Legal:")[0]
    raise ConfigurationError(f"{message} timm.list_models() lists all of them.")


def build_model(spec: ModelSpec, seed: int) -> nn.Module:
    """The model in training mode on the CPU; the same spec and seed give the same weights.

    Args:
        spec: what to make.
        seed: of the random initialisation.

    Raises:
        ConfigurationError: an unknown name, a stem the architecture does not have, a model
            without timm's feature interface or that cannot take such images (found out before
            its weights are made, see ``model_check``), one that cannot have the dropout or the
            initial weights asked for, or pretrained weights that do not exist or cannot be fetched.
    """
    check_model_name(spec.name)
    if spec.pretrained and spec.init == "torch":
        raise ConfigurationError(
            "init is 'torch', but pretrained weights are no random initial weights. Leave out one "
            "of them."
        )
    if not 0 <= spec.dropout < 1:
        raise ConfigurationError(f"dropout is {spec.dropout!r}; it must be in [0, 1).")
    checked = _check_on_meta(spec)
    with isolated_torch_rng(torch.device("cpu"), seed, "model"):
        try:
            model = _create(spec)
        except (ConfigurationError, OSError):  # OSError: no network, or no room for weights
            raise
        except Exception as error:  # whatever an architecture raises
            raise _cannot_make(spec, error) from error
        if not checked:
            _check(spec, model)
        if spec.init == "torch":
            _reset_to_torch_defaults(spec, model)
    if spec.dropout:
        _check_dropout(spec, model)
    return model.train()


def model_input(spec: ModelSpec, model: nn.Module) -> tuple[tuple[int, int] | None, Any]:
    """The (height, width) that images must be resized to, or None; and timm's data settings.

    The second is timm's pretrained configuration (``mean``, ``std``, ``input_size``, ...).
    """
    settings = cast(dict[str, Any], getattr(model, "pretrained_cfg", None) or {})
    if spec.input_size is not None:
        return (spec.input_size, spec.input_size), settings
    if settings.get("fixed_input_size"):
        height, width = settings["input_size"][1:]
        return (height, width), settings
    return None, settings


def forward_features(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, C) and penultimate features (B, D) from one pass, both float32."""
    hidden = model.forward_features(images)
    logits = model.forward_head(hidden)
    features = model.forward_head(hidden, pre_logits=True)
    return logits.float(), features.flatten(1).float()


def classifier(model: Any) -> nn.Module:
    """The module that makes logits from penultimate features."""
    return model.get_classifier()


def weights_hash(model: nn.Module) -> str:
    """Identity of a model's parameters and buffers: a hash of their names and values."""
    return digest(*(part for item in model.state_dict().items() for part in item))


def _create(spec: ModelSpec) -> nn.Module:
    options: dict[str, Any] = {"drop_rate": spec.dropout} if spec.dropout else {}
    try:
        model = timm.create_model(
            spec.name,
            pretrained=spec.pretrained,
            num_classes=spec.num_classes,
            in_chans=spec.in_chans,
            **options,
        )
    except TypeError as error:
        if "drop_rate" not in str(error):
            raise
        raise _no_dropout(spec, "it does not take timm's drop_rate") from error
    except (OSError, RuntimeError, ImportError) as error:
        if not spec.pretrained:
            raise
        raise _no_pretrained_weights(spec, error) from error
    if _wants_cifar_stem(spec, model):
        _set_cifar_stem(model, keep_weights=spec.pretrained)
    return model


def _check_on_meta(spec: ModelSpec) -> bool:
    """Check the model without its weights; False where that cannot be done."""
    with isolated_torch_rng(torch.device("cpu"), 0, "check of model"):
        try:
            with torch.device("meta"):
                model = _create(replace(spec, pretrained=False))
            _check(spec, model)
        except NotOnMeta:
            return False
        except ConfigurationError:
            raise
        except Exception as error:  # whatever an architecture raises
            if may_be_of_meta(error):  # such as .item() in a constructor
                return False
            raise _cannot_make(spec, error) from error
    return True


def _cannot_make(spec: ModelSpec, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"timm cannot make model {spec.name!r} for images with {spec.in_chans} channels and "
        f"{spec.num_classes} classes: {error!r}. Choose another model, such as 'resnet18'."
    )


def _check(spec: ModelSpec, model: nn.Module) -> None:
    size, settings = model_input(spec, model)
    own = settings.get("input_size")
    shape = (spec.in_chans, *(size or spec.image_size))
    check_model(model, spec.name, shape, spec.num_classes, tuple(own[1:]) if own else None)


def _wants_cifar_stem(spec: ModelSpec, model: nn.Module) -> bool:
    possible = isinstance(getattr(model, "conv1", None), nn.Conv2d) and hasattr(model, "maxpool")
    if spec.cifar_stem is None:
        size = (spec.input_size,) if spec.input_size else spec.image_size
        return possible and max(size) < SMALL_IMAGE
    if spec.cifar_stem and not possible:
        raise ConfigurationError(
            f"cifar_stem=True, but timm model {spec.name!r} has no conv1 and maxpool to replace. "
            "Use a plain ResNet such as 'resnet18', or leave cifar_stem unset."
        )
    return spec.cifar_stem


def _set_cifar_stem(model: Any, *, keep_weights: bool) -> None:
    old = model.conv1
    new = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=1, padding=1, bias=False)
    if keep_weights:  # the centre of the pretrained 7x7 filters
        centre = old.kernel_size[0] // 2
        new.weight.data.copy_(
            old.weight.data[:, :, centre - 1 : centre + 2, centre - 1 : centre + 2]
        )
    else:
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    model.conv1, model.maxpool = new, nn.Identity()


def _reset_to_torch_defaults(spec: ModelSpec, model: nn.Module) -> None:
    """Draw the weights of every layer as PyTorch does when it makes one: convolutions and linear
    layers uniform in ±1/sqrt(fan-in), scales of normalisation 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    for module in model.modules():
        reset = getattr(type(module), "reset_parameters", None)
        if reset is not None and reset.__module__.startswith("torch."):
            reset(module)
    left = [name for name, value in model.named_parameters() if value.isnan().any()]
    if left:
        raise ConfigurationError(
            f"init is 'torch', but PyTorch has no default for {len(left)} parameters of timm model "
            f"{spec.name!r}, such as {', '.join(left[:3])}. Use init='timm', or a plain "
            "convolutional network such as 'resnet18'."
        )


def _no_pretrained_weights(spec: ModelSpec, error: Exception) -> ConfigurationError:
    if "No pretrained weights exist" in str(error):
        reason = "timm has none"
        advice = "timm.list_models(pretrained=True) lists the models that have some."
    else:
        reason = f"{type(error).__name__}: {error}"
        advice = "They come from the hub, so look at the network; or leave out pretrained."
    return ConfigurationError(
        f"The pretrained weights of timm model {spec.name!r} cannot be loaded ({reason}). {advice}"
    )


def _no_dropout(spec: ModelSpec, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"dropout={spec.dropout} cannot be put before the classifier of timm model {spec.name!r}: "
        f"{reason}. Choose another model, such as 'resnet18', or leave dropout at 0."
    )


def _check_dropout(spec: ModelSpec, model: Any) -> None:
    """Refuse a model that drops nothing, or whose logits are not its classifier's of its features.

    A copy of it, with random weights in its classifier, shows it on random feature maps (of random
    images, some models make nothing but zeros before they are trained).
    """
    if not callable(getattr(model, "get_classifier", None)):
        raise _no_dropout(spec, "it has no get_classifier()")
    height, width = model_input(spec, model)[0] or spec.image_size
    with isolated_torch_rng(torch.device("cpu"), 0, "check of dropout"), torch.no_grad():
        probe = copy.deepcopy(model).eval()
        head = probe.get_classifier()
        if not isinstance(head, nn.Module):
            raise _no_dropout(spec, "it has not one classifier but several")
        for parameter in head.parameters():
            parameter.normal_()
        images = torch.zeros(2, spec.in_chans, height, width)
        hidden = torch.randn_like(probe.forward_features(images))
        logits = probe.forward_head(hidden)
        features = probe.forward_head(hidden, pre_logits=True).flatten(1)
        try:
            same = torch.allclose(head(features), logits, rtol=1e-3, atol=1e-3)
        except RuntimeError:
            same = False
        if not same:
            raise _no_dropout(spec, "its logits are not its classifier's of its features")
        probe.train()
        if torch.equal(probe.forward_head(hidden), probe.forward_head(hidden)):
            raise _no_dropout(spec, "in training it drops nothing there")
