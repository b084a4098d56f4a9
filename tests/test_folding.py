"""Folded batch norm: the outputs of the original, and nothing folded that must not be."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from alhpo.data.batches import DeviceImages, InputFormat
from alhpo.models.folding import folded
from alhpo.models.timm_models import ModelSpec, build_model, forward_features, weights_hash
from alhpo.testing.process_state import process_left_alone
from alhpo.training.compute import Compute
from alhpo.training.evaluation import evaluate, predict, score_images
from alhpo.training.recipes.learning_loss import LearningLossRecipe
from alhpo.training.recipes.network import NetworkRecipe

CPU = torch.device("cpu")
PLAIN = Compute(CPU, "float32", False)
#: A small model of each family: its name, the pixels per side, whether it has batch norm.
FAMILIES = [
    ("resnet10t", 32, True),
    ("tf_efficientnet_lite0", 64, True),
    ("mobilenetv3_small_050", 64, True),
    ("regnety_002", 64, True),
    ("convnext_atto", 64, False),
    ("vit_tiny_patch16_224", 224, False),
]


def norms(model):
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


def as_if_trained(model, seed=1):
    """The model with batch norms that do something; in place."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.3, generator=generator)
    return model


def images_of(size, n=5, seed=2):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def outputs(model, images):
    with torch.no_grad():
        return forward_features(model, images)


def output(model, images):
    with torch.no_grad():
        return [model(images)]


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize(("name", "size", "normed"), FAMILIES)
def test_families_of_timm_keep_their_outputs(name, size, normed):
    model = as_if_trained(build_model(ModelSpec(name, 7, 3, (size, size)), 0)).train()
    before = weights_hash(model)
    with process_left_alone("folded"):
        copy = folded(model, (3, size, size), outputs)
    assert weights_hash(model) == before and model.training
    assert (norms(model) > 0) == normed
    if normed:
        assert norms(copy) == 0 and not copy.training
        assert_close(outputs(copy, images_of(size)), outputs(model.eval(), images_of(size)))
    else:
        assert copy is model


@settings(max_examples=25, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 6]),
    bias=st.booleans(),
    affine=st.booleans(),
    activation=st.booleans(),
    stride=st.integers(1, 2),
    channels_last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_convolution_and_its_batch_norm(
    groups, bias, affine, activation, stride, channels_last, seed
):
    kind = partial(BatchNormAct2d, act_layer=nn.Hardswish) if activation else nn.BatchNorm2d
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 1),
            nn.Conv2d(6, 12, 3, stride, 1, groups=groups, bias=bias),
            kind(12, affine=affine),
            nn.Conv2d(12, 2, 1),
        )
    model = as_if_trained(model, seed).eval()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    copy = folded(model, (3, 9, 9), output)
    assert norms(copy) == 0
    assert_close(output(copy, images_of(9)), output(model, images_of(9)))


class Net(nn.Module):
    """Convolutions of 3 channels and batch norms, connected by ``flow``."""

    def __init__(self, flow, convolution=nn.Conv2d):
        super().__init__()
        self.flow = flow
        self.first, self.second = convolution(3, 3, 3, padding=1), convolution(3, 3, 3, padding=1)
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.flow(self, x)


def output_used_twice(net, x):
    y = net.first(x)
    return net.norm(y) + y.relu()


def view_used_too(net, x):
    y = net.first(x)
    return net.norm(y).flatten(1) + y.flatten(1)


#: Where one batch norm must stay: what comes before it is not one convolution's output alone.
KEPT = {
    "after an addition": lambda net, x: net.norm(net.first(x) + x),
    "output used twice": output_used_twice,
    "a view of the output used": view_used_too,
    "after an activation": lambda net, x: net.norm(net.first(x).relu()),
    "after two convolutions": lambda net, x: net.norm(torch.cat([net.first(x), net.second(x)], 2)),
    "on the input": lambda net, x: net.first(net.norm(x)),
    "convolution applied twice": lambda net, x: net.norm(net.first(net.first(x))),
    "batch norm applied twice": lambda net, x: net.norm(net.second(net.norm(net.first(x)))),
    "another weight": lambda net, x: net.norm(F.conv2d(x, net.first.weight * 2)),
}


@pytest.mark.parametrize("flow", KEPT.values(), ids=KEPT)
def test_batch_norm_that_is_not_of_a_convolution_alone_is_kept(flow):
    model = as_if_trained(Net(flow)).eval()
    assert folded(model, (3, 6, 6), output) is model
    # beside one that is folded
    both = as_if_trained(Net(lambda net, x: flow(net, net.other(net.second(x))))).eval()
    copy = folded(both, (3, 6, 6), output)
    expected = (
        2 if flow in (KEPT["after two convolutions"], KEPT["batch norm applied twice"]) else 1
    )
    assert norms(copy) == expected
    assert_close(output(copy, images_of(6)), output(both, images_of(6)))


def test_an_output_of_the_model_is_not_changed():
    def two_outputs(model, images):
        with torch.no_grad():
            y = model.first(images)
            return [y, model.norm(y)]

    model = as_if_trained(Net(None)).eval()
    assert folded(model, (3, 6, 6), two_outputs) is model


def test_a_model_whose_outputs_would_differ_is_used_as_it_is():
    class WithoutBias(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight, None, padding=1)

    flow = lambda net, x: net.norm(net.first(x))  # noqa: E731
    model = as_if_trained(Net(flow, WithoutBias)).eval()
    assert folded(model, (3, 6, 6), output) is model
    looking = as_if_trained(Net(lambda net, x: net.norm(net.first(x)) * net.norm.eps)).eval()
    assert folded(looking, (3, 6, 6), output) is looking
    broken = as_if_trained(Net(flow)).eval()
    broken.norm.running_mean[0] = torch.nan
    assert folded(broken, (3, 6, 6), output) is broken


# --- predictions ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[NetworkRecipe, LearningLossRecipe])
def recipe(request):
    """A recipe whose initial model has batch norms that do something."""
    made = request.param(ModelSpec("resnet10t", 4, 1, (8, 8)), 0)
    as_if_trained(made.template)
    return made


def device_images(n):
    generator = torch.Generator().manual_seed(3)
    values = torch.randint(256, (n, 8, 8, 1), dtype=torch.uint8, generator=generator)
    return DeviceImages(values, torch.arange(n) % 4, InputFormat((0.5,), (0.25,)), CPU)


def test_predictions_are_those_of_the_model_up_to_rounding(recipe):
    model = recipe.template
    copy = recipe.for_inference(model)
    assert norms(model) > 0 and norms(copy) == 0
    images = device_images(40)
    (inputs, _), *_ = images.blocks()
    expected = recipe.predict(model, inputs, PLAIN, features=True)
    found = predict(recipe, model, images, PLAIN)
    assert [v is None for v in found] == [v is None for v in expected]
    assert_close([v for v in found if v is not None], [v for v in expected if v is not None])
    # in two blocks
    parts = [
        predict(recipe, model, images.part(torch.arange(*p)), PLAIN) for p in [(0, 7), (7, 40)]
    ]
    for one, whole in zip(zip(*parts, strict=True), found, strict=True):
        if whole is not None:
            torch.testing.assert_close(torch.cat(one), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 40])
def test_the_purpose_decides_not_the_number_of_images(recipe, n):
    images = device_images(n)
    (inputs, _), *_ = images.blocks()
    model = recipe.template
    fast = recipe.predict(recipe.for_inference(model), inputs, PLAIN, features=True).logits
    plain = recipe.predict(model, inputs, PLAIN, features=True).logits
    assert torch.equal(predict(recipe, model, images, PLAIN).logits, fast)
    as_it_is = score_images(recipe, model, images, PLAIN)
    assert torch.equal(as_it_is.nll, F.cross_entropy(plain, images.own_labels, reduction="none"))
    mean = F.cross_entropy(fast, images.own_labels, reduction="none").double().mean()
    assert evaluate(recipe, model, images, PLAIN).nll == pytest.approx(float(mean), rel=1e-12)
