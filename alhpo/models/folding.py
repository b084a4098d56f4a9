"""Batch norm folded into the convolution before it, for inference.

In evaluation mode both are affine maps of each channel, so one convolution does the work of the two
(Jacob et al., CVPR 2018, section 3.2).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeGuard, cast

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from alhpo.models.timm_models import BatchNormAct2d

#: Largest difference of outputs, as a share of the largest output, that rounding may cause.
TOLERANCE = 1e-3
#: Random images on which a folded model is compared with its original.
IMAGES = 2


def folded(
    model: nn.Module,
    shape: tuple[int, int, int],
    outputs: Callable[[nn.Module, torch.Tensor], Sequence[torch.Tensor]],
) -> nn.Module:
    """A copy of a model for inference, in which convolutions do the work of the batch norms.

    A batch norm is folded if a pass shows that its input is the output of a convolution, and that
    nothing else takes that output. The copy is then compared with the model on random images, on
    the CPU.

    Args:
        model: a model with float32 weights; it stays as it is.
        shape: (C, H, W) of its input.
        outputs: the outputs for (B, C, H, W) images that the copy must have too, in evaluation
            mode, in float32 and without gradients.

    Returns:
        The copy, in evaluation mode, on the same device; the model itself if nothing can be folded
        or outputs differ by more than rounding.
    """
    if not has_batch_norm(model):
        return model
    device = next(model.parameters()).device
    mine = copy.deepcopy(model).to("cpu").eval()  # a GPU may round products to TF32
    images = torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(0))
    with _Flow() as flow:
        expected = outputs(mine, images)
    pairs = list(_pairs(mine, flow.calls, expected))
    if not pairs:
        return model
    for convolution, norm in pairs:
        _fold(convolution, norm)
    _replace(mine, {id(norm): _rest(norm) for _, norm in pairs})
    try:
        found = outputs(mine, images)
    except Exception:  # of an architecture that looks at its batch norm
        return model
    same = all(_close(one, other) for one, other in zip(found, expected, strict=True))
    return mine.to(device) if same else model


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a model has batch norms of a kind that may be folded."""
    return any(_is_norm(module) for module in model.modules())


class _Flow(TorchDispatchMode):
    """Records the operations of a pass: the tensors that each takes, and its result.

    They are kept, so that no two have the same id.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[list[torch.Tensor], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((list(_tensors((args, kwargs))), result))
        return result


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _pairs(
    model: nn.Module,
    calls: Sequence[tuple[list[torch.Tensor], Any]],
    results: Sequence[torch.Tensor],
) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each convolution whose output goes into a batch norm and nowhere else, with it."""
    convolutions = {
        id(module.weight): module for module in model.modules() if isinstance(module, nn.Conv2d)
    }
    norms = {id(module.running_mean): module for module in model.modules() if _is_norm(module)}
    uses = Counter(id(tensor) for taken, _ in calls for tensor in taken)
    uses.update(id(tensor) for tensor in results)
    source: dict[int, nn.Conv2d] = {}
    for taken, result in calls:
        for tensor in taken:
            if uses[id(tensor)] != 1:
                continue
            if id(tensor) in convolutions and isinstance(result, torch.Tensor):
                source[id(result)] = convolutions[id(tensor)]
            # the input is the first tensor that batch norm takes
            elif id(tensor) in norms and uses[id(taken[0])] == 1 and id(taken[0]) in source:
                yield source[id(taken[0])], norms[id(tensor)]


def _is_norm(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether a module is known to be batch norm, and perhaps dropout and an activation after it,
    with statistics of its own."""
    known = type(module) in (nn.BatchNorm2d, BatchNormAct2d)
    return known and getattr(module, "running_mean", None) is not None


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None  # _is_norm
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double()
    if convolution.bias is not None:
        shift = shift + convolution.bias.detach().double()
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    weight = convolution.weight.detach().double() * scale[:, None, None, None]
    convolution.weight = nn.Parameter(weight.float(), requires_grad=False)
    convolution.bias = nn.Parameter(shift.float(), requires_grad=False)


def _rest(norm: nn.BatchNorm2d) -> nn.Module:
    """What a module does after batch norm."""
    if type(norm) is BatchNormAct2d:
        return nn.Sequential(cast(nn.Module, norm.drop), cast(nn.Module, norm.act))
    return nn.Identity()


def _replace(model: nn.Module, replacements: dict[int, nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if id(child) in replacements:
                setattr(parent, name, replacements[id(child)])


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """False for outputs that are not finite."""
    return bool((one - other).abs().max() <= TOLERANCE * other.abs().max())
