"""timm models: built for a data set, from seeded random or pretrained weights, with penultimate
features."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import nn

from alhpo.base.digests import digest
from alhpo.base.errors import ConfigurationError
from alhpo.base.schema import unknown_name
from alhpo.base.seeding import isolated_torch_rng
from alhpo.models.check import NotOnMeta, check_model, may_be_of_meta
from alhpo.models.weights import Weights, put_into, read_weights

with warnings.catch_warnings():
    # timm 0.9 uses torch.jit, of which newer torch warns at import
    warnings.simplefilter("ignore", FutureWarning)
    import timm
    from timm.layers.drop import DropPath as DropPath
    from timm.layers.norm_act import BatchNormAct2d as BatchNormAct2d

    import alhpo.models.stacked_resnet  # noqa: F401 - a family that timm then knows

#: The legal values of ``ModelSpec.init``.
Init = Literal["timm", "torch"]
#: For images with fewer pixels on the longer side, ResNets get the CIFAR stem by default.
SMALL_IMAGE = 64


@dataclass(frozen=True)
class ModelSpec:
    """A timm model, for images and classes of a data set.

    Attributes:
        name: any name that ``timm.create_model`` takes.
        num_classes: C of the data set.
        in_chans: channels of the images.
        image_size: (height, width) of the images, in pixels.
        pretrained: start from timm's pretrained weights.
        weights: start from these weights: a file of a state dict (.safetensors, .pth, .pt, .bin),
            or the name of a source, such as "efficientnet-lite0".
        cifar_stem: 3x3 stride-1 stem without max-pool, for timm's ResNets; None uses it for images
            below 64 pixels.
        input_size: pixels per side to which images are resized on the device. None keeps their
            size, unless the architecture accepts only its own (such as ViT).
        dropout: probability of dropping a feature before the classifier, timm's ``drop_rate``.
        train_dropout: whether features are dropped in training; without it, in passes only.
        init: random initial weights. "timm": those of timm for the architecture; "torch": PyTorch's
            defaults for every layer, as in the code of Huseljic et al. (2023).
    """

    name: str
    num_classes: int
    in_chans: int
    image_size: tuple[int, int]
    pretrained: bool = False
    weights: str | None = None
    cifar_stem: bool | None = None
    input_size: int | None = None
    dropout: float = 0.0
    init: Init = "timm"
    train_dropout: bool = True

    @property
    def drop_rate(self) -> float:
        """The probability of dropping a feature in training."""
        return self.dropout if self.train_dropout else 0.0

    @property
    def starts_pretrained(self) -> bool:
        """Whether training starts from pretrained weights: timm's, or given ones."""
        return self.pretrained or self.weights is not None

    def identity(self) -> dict[str, Any]:
        """What a training depends on, as a JSON-able mapping. It has ``dropout``, that of training,
        and ``init`` only if they are not the defaults. Given weights are ``pretrained``;
        ``weights_hash`` tells which ones they are."""
        identity = asdict(self) | {
            "image_size": list(self.image_size),
            "pretrained": self.starts_pretrained,
        }
        del identity["weights"], identity["train_dropout"]
        if not self.drop_rate:
            del identity["dropout"]
        if self.init == "timm":
            del identity["init"]
        return identity


def check_model_name(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        ConfigurationError: the name is unknown; the message has the closest legal name.
    """
    if ":" in name or timm.is_model(name.split(".")[0]):
        return
    error = unknown_name("timm model", name, timm.list_models())
    message = str(error).split(" Legal:")[0]
    raise ConfigurationError(f"{message} timm.list_models() lists all of them.")


def check_initial_weights(pretrained: bool, weights: str | None, init: Init) -> None:
    """Refuse settings of initial weights that exclude each other.

    Args:
        pretrained, weights, init: see ``ModelSpec``.

    Raises:
        ConfigurationError: more than one of them decides the weights.
    """
    given = {
        "pretrained": pretrained,
        f"weights={weights!r}": weights is not None,
        "init='torch'": init == "torch",
    }
    deciding = [name for name, decides in given.items() if decides]
    if len(deciding) > 1:
        raise ConfigurationError(
            f"Settings {' and '.join(deciding)} exclude each other: each says which weights "
            "training starts from. Leave out all but one."
        )


def build_model(
    spec: ModelSpec, seed: int, drop_path: float = 0.0, shape: Mapping[str, int] | None = None
) -> nn.Module:
    """Build a model, in training mode on the CPU. The same arguments give the same weights.

    Args:
        spec: the model.
        seed: of the random initial weights.
        drop_path: rate of stochastic depth, timm's ``drop_path_rate``, of an architecture that
            has it.
        shape: further arguments of timm's function that makes it, such as ``blocks`` and
            ``stacks`` of "stacked_resnet".

    Raises:
        ConfigurationError: the name is unknown; the architecture has no such stem, dropout or
            initial weights; the model fails ``check_model``, mostly before its weights are made;
            pretrained weights do not exist or cannot be downloaded; or given weights cannot be read
            or do not fit.
    """
    check_model_name(spec.name)
    check_initial_weights(spec.pretrained, spec.weights, spec.init)
    if not 0 <= spec.dropout < 1:
        raise ConfigurationError(
            f"Setting dropout is {spec.dropout!r}; expected a number in [0, 1)."
        )
    weights = None if spec.weights is None else read_weights(spec.weights, spec.name)
    shape = shape or {}
    checked = _check_on_meta(spec, shape)
    with isolated_torch_rng(torch.device("cpu"), seed, "model"):
        try:
            model = _create(spec, shape, weights, drop_path)
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
    """The input that a model needs.

    Returns:
        The (height, width) to which images must be resized, or None; and timm's pretrained
        configuration (``mean``, ``std``, ``input_size``, ...).
    """
    settings = cast(dict[str, Any], getattr(model, "pretrained_cfg", None) or {})
    if spec.input_size is not None:
        return (spec.input_size, spec.input_size), settings
    if settings.get("fixed_input_size"):
        height, width = settings["input_size"][1:]
        return (height, width), settings
    return None, settings


def own_input_size(name: str) -> int | None:
    """The side in pixels of the images that a timm model was trained on; None if timm does not
    say."""
    settings = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    return None if settings is None or not settings.input_size else max(settings.input_size[1:])


def _takes_one_size(name: str) -> bool:
    settings = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    return settings is not None and bool(settings.fixed_input_size)


def forward_features(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, C) logits and (B, D) penultimate features from one pass, both float32."""
    hidden = model.forward_features(images)
    logits = model.forward_head(hidden)
    features = model.forward_head(hidden, pre_logits=True)
    return logits.float(), features.flatten(1).float()


def classifier(model: Any) -> nn.Module:
    """The module that maps penultimate features to logits."""
    return model.get_classifier()


def weights_hash(model: nn.Module) -> str:
    """Hash of the names and values of a model's parameters and buffers."""
    return digest(*(part for item in model.state_dict().items() for part in item))


def _create(
    spec: ModelSpec,
    shape: Mapping[str, int],
    weights: Weights | None = None,
    drop_path: float = 0.0,
) -> nn.Module:
    options: dict[str, Any] = dict(shape)
    if spec.drop_rate:
        options["drop_rate"] = spec.drop_rate
    if drop_path:
        options["drop_path_rate"] = drop_path
    if (
        spec.input_size
        and _takes_one_size(spec.name)
        and spec.input_size != own_input_size(spec.name)
    ):
        options["img_size"] = spec.input_size  # of a transformer, whose positions are resampled
    try:
        model = timm.create_model(
            spec.name,
            pretrained=spec.pretrained,
            num_classes=spec.num_classes,
            in_chans=spec.in_chans,
            **options,
        )
    except TypeError as error:
        if drop_path and "drop_path_rate" in str(error):
            return _create(spec, shape, weights)
        if "drop_rate" not in str(error):
            raise
        raise _no_dropout(spec, "it does not take timm's drop_rate") from error
    except (OSError, RuntimeError, ImportError) as error:
        if not spec.pretrained:
            raise
        raise _no_pretrained_weights(spec, error) from error
    small = _wants_cifar_stem(spec, model)
    if small and weights is not None and _has_cifar_stem(weights):
        _set_cifar_stem(model, keep_weights=False)
        small = False
    if weights is not None:
        put_into(model, weights, spec.name)
    if small:
        _set_cifar_stem(model, keep_weights=spec.pretrained or weights is not None)
    return model


def _check_on_meta(spec: ModelSpec, shape: Mapping[str, int]) -> bool:
    """Check the model without its weights; return False if that cannot be done."""
    with isolated_torch_rng(torch.device("cpu"), 0, "check of model"):
        try:
            with torch.device("meta"):
                model = _create(replace(spec, pretrained=False, weights=None), shape)
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
            f"Setting cifar_stem=True, but timm model {spec.name!r} has no conv1 and maxpool to "
            "replace. Use a plain ResNet such as 'resnet18', or leave cifar_stem unset."
        )
    return spec.cifar_stem


def _has_cifar_stem(weights: Weights) -> bool:
    first = weights.tensors.get("conv1.weight", torch.empty(0))
    return first.shape[2:] == (3, 3)


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
    """Draw the weights of every layer from PyTorch's defaults: uniform in ±1/sqrt(fan-in) for
    convolutions and linear layers, 1 for the scales of normalisation layers."""
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
            f"Setting init is 'torch', but PyTorch has no default for {len(left)} parameters of "
            f"timm model {spec.name!r}, such as {', '.join(left[:3])}. Use init='timm', or a plain "
            "convolutional network such as 'resnet18'."
        )


def _no_pretrained_weights(spec: ModelSpec, error: Exception) -> ConfigurationError:
    if "No pretrained weights exist" in str(error):
        reason = "timm has none"
        advice = "timm.list_models(pretrained=True) lists the models that have some."
    else:
        reason = f"{type(error).__name__}: {error}"
        advice = "They come from the hub: check the network, or leave out pretrained."
    return ConfigurationError(
        f"The pretrained weights of timm model {spec.name!r} cannot be loaded ({reason}). {advice}"
    )


def _no_dropout(spec: ModelSpec, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"Setting dropout={spec.dropout} cannot be put before the classifier of timm model "
        f"{spec.name!r}: {reason}. Choose another model, such as 'resnet18', or leave dropout at 0."
    )


def _check_dropout(spec: ModelSpec, model: Any) -> None:
    """Refuse a model without dropout before its classifier, or whose logits are not the output of
    its classifier for its features.

    The check runs a copy with random classifier weights on random feature maps. (For random images
    the features of some untrained models are all 0.)
    """
    if not callable(getattr(model, "get_classifier", None)):
        raise _no_dropout(spec, "it has no get_classifier()")
    height, width = model_input(spec, model)[0] or spec.image_size
    with isolated_torch_rng(torch.device("cpu"), 0, "check of dropout"), torch.no_grad():
        probe = copy.deepcopy(model).eval()
        head = probe.get_classifier()
        if not isinstance(head, nn.Module):
            raise _no_dropout(spec, "it has several classifiers")
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
            raise _no_dropout(
                spec, "its logits are not the output of its classifier for its features"
            )
        probe.train()
        if spec.drop_rate and torch.equal(probe.forward_head(hidden), probe.forward_head(hidden)):
            raise _no_dropout(spec, "it drops nothing there in training")
