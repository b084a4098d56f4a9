"""timm models: named random weights, the stem for small images, penultimate features."""

import pytest
import scipy.stats
import timm
import torch
from torch import nn

import alhpo.models.timm_models
from alhpo.base.errors import ConfigurationError
from alhpo.base.seeding import isolated_torch_rng
from alhpo.models.timm_models import (
    ModelSpec,
    build_model,
    check_model_name,
    classifier,
    forward_features,
    model_input,
    weights_hash,
)
from alhpo.outputs.dropout_passes import DropoutPasses
from alhpo.testing.process_state import global_seed, process_left_alone

TINY = ["resnet18", "resnet10t", "mobilenetv3_small_050", "lcnet_035", "vit_tiny_patch16_224"]


def spec(name="resnet18", size=8, **settings):
    settings = {"num_classes": 5, "in_chans": 1, "image_size": (size, size)} | settings
    return ModelSpec(name, **settings)


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenetv3_small_050", pytest.param("vgg11_bn", marks=pytest.mark.slow)],
)
def test_torch_init_draws_every_layer_by_pytorchs_rule(name):
    """Uniform in ±1/sqrt(fan-in) for convolutions and linear layers, as ``kaiming_uniform_`` with
    a = sqrt(5) and the rule for biases come out; normalisation starts as the identity."""
    model = build_model(spec(name, 32, num_classes=10, in_chans=3, init="torch"), 0)
    tested = 0
    for layer_name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = layer.weight[0].numel() ** -0.5
            for values in (layer.weight, layer.bias):
                if values is None or values.numel() < 8:
                    continue
                drawn = values.detach().flatten().numpy()
                assert max(-drawn.min(), drawn.max()) <= bound * (1 + 1e-6), layer_name
                uniform = scipy.stats.uniform(-bound, 2 * bound)
                some = drawn[:: -(-len(drawn) // 100_000)].astype(float)  # of a hundred million
                assert scipy.stats.kstest(some, uniform.cdf).pvalue > 1e-4, layer_name
                tested += 1
        elif isinstance(layer, nn.BatchNorm2d):
            for values, constant in (
                *((layer.weight, 1), (layer.bias, 0)),
                *((layer.running_mean, 0), (layer.running_var, 1)),
            ):
                assert (values == constant).all(), layer_name
    assert tested > 10
    tensors = {id(value) for value in model.parameters()}
    known = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    seen = {id(v) for m in model.modules() if isinstance(m, known) for v in m.parameters(False)}
    assert tensors == seen


def test_init_is_part_of_what_a_model_is():
    specs = [spec(), spec(init="torch")]
    assert specs[0].identity() != specs[1].identity()
    timms, torchs = (build_model(one, 0) for one in specs)
    assert weights_hash(timms) != weights_hash(torchs)
    assert weights_hash(build_model(specs[1], 0)) == weights_hash(torchs)
    assert timms.layer1[0].bn2.weight.eq(0).all()  # unlike the paper's
    assert torchs.layer1[0].bn2.weight.eq(1).all()


@pytest.mark.parametrize(
    ("name", "size", "parameter"),
    [("vit_tiny_patch16_224", 224, "pos_embed"), ("convnext_atto", 32, "gamma")],
)
def test_torch_init_is_refused_where_pytorch_has_no_default(name, size, parameter):
    with pytest.raises(ConfigurationError, match=rf"{name}.*{parameter}.*init='timm'"):
        build_model(spec(name, size, in_chans=3, init="torch"), 0)


def test_pretrained_weights_that_do_not_exist_are_told():
    with_weights = {name.split(".")[0] for name in timm.list_models(pretrained=True)}
    bare = next(name for name in timm.list_models("resnet*") if name not in with_weights)
    with pytest.raises(ConfigurationError, match=rf"{bare!r} cannot be loaded \(timm has none"):
        build_model(spec(bare, 64, in_chans=3, pretrained=True), 0)


def test_without_a_network_pretrained_weights_say_that_they_come_from_the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match=r"'resnet18' cannot be loaded.*the hub.*network"):
        build_model(spec(pretrained=True), 0)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_same_seed_same_weights_whatever_the_global_generator(name):
    with process_left_alone("build_model"):
        first = weights_hash(build_model(spec(name), 0))
    with global_seed(99):
        assert weights_hash(build_model(spec(name), 0)) == first
    assert weights_hash(build_model(spec(name), 1)) != first


def test_weights_hash_sees_parameters_and_buffers():
    model = nn.BatchNorm1d(3)
    hashes = [weights_hash(model)]
    model.running_mean[1] += 1e-6
    hashes.append(weights_hash(model))
    with torch.no_grad():
        model.weight[2] = 1.0000001
    hashes.append(weights_hash(model))
    assert len(set(hashes)) == 3
    assert weights_hash(model) == hashes[2]
    assert weights_hash(nn.Linear(1, 1).to(memory_format=torch.channels_last))


def test_memory_order_is_not_part_of_the_identity():
    model = nn.Conv2d(3, 4, 3)
    before = weights_hash(model)
    assert weights_hash(model.to(memory_format=torch.channels_last)) == before


# --- what comes out ------------------------------------------------------------------------------


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("name", TINY)
def test_logits_and_penultimate_features(name, in_chans):
    wanted = spec(name, 32, in_chans=in_chans)
    model = build_model(wanted, 0)
    assert model.training
    size, _ = model_input(wanted, model)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, in_chans, *(size or (32, 32)), generator=generator)
    model.eval()
    with torch.no_grad():
        expected = model(images)
        logits, features = forward_features(model, images)
        head = model.get_classifier()
        assert torch.allclose(head(features), logits, atol=1e-5)
    assert torch.equal(logits, expected) and logits.shape == (2, 5)
    assert features.shape == (2, head.in_features)
    assert logits.dtype == features.dtype == torch.float32
    assert features.std() > 0


@pytest.mark.parametrize("name", TINY)
def test_images_are_resized_only_where_the_architecture_asks(name):
    model = build_model(spec(name), 0)
    size, settings = model_input(spec(name), model)
    assert size == ((224, 224) if name.startswith("vit") else None)
    assert {"mean", "std", "input_size"} <= set(settings)
    assert model_input(spec(name, input_size=48), model)[0] == (48, 48)


def test_model_without_a_configuration_is_not_resized():
    assert model_input(spec(), nn.Linear(1, 1)) == (None, {})


def test_features_of_half_precision_are_float32():
    model = build_model(spec(), 0).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits, features = forward_features(model, torch.zeros(2, 1, 8, 8))
    assert logits.dtype == features.dtype == torch.float32


# --- stem ----------------------------------------------------------------------------------------


def has_cifar_stem(model):
    small = model.conv1.kernel_size == (3, 3) and model.conv1.stride == (1, 1)
    assert small == isinstance(model.maxpool, nn.Identity)
    assert small or (model.conv1.kernel_size, model.conv1.stride) == ((7, 7), (2, 2))
    return small


@pytest.mark.parametrize(
    ("settings", "small"),
    [
        ({"image_size": (8, 8)}, True),
        ({"image_size": (63, 63)}, True),
        ({"image_size": (64, 64)}, False),
        ({"image_size": (32, 64)}, False),
        ({"image_size": (64, 32)}, False),
        ({"image_size": (32, 32), "input_size": 64}, False),
        ({"image_size": (224, 224), "input_size": 32}, True),
        ({"image_size": (32, 32), "cifar_stem": False}, False),
        ({"image_size": (224, 224), "cifar_stem": True}, True),
    ],
)
def test_stem_follows_the_size_unless_told(settings, small):
    assert has_cifar_stem(build_model(spec(**settings), 0)) == small


def test_cifar_stem_keeps_the_resolution():
    model = build_model(spec(in_chans=3), 0).eval()
    with torch.no_grad():
        hidden = model.maxpool(model.act1(model.bn1(model.conv1(torch.zeros(1, 3, 8, 8)))))
    assert hidden.shape[2:] == (8, 8)
    assert model.conv1.in_channels == 3 and model.conv1.bias is None


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_models_without_such_a_stem(name):
    build_model(spec(name), 0)  # chosen automatically where possible, here it is not
    with pytest.raises(ConfigurationError, match=f"cifar_stem=True, but timm model '{name}'"):
        build_model(spec(name, cifar_stem=True), 0)


def test_pretrained_stem_keeps_the_centre_of_its_filters(monkeypatch):
    made = []
    create = alhpo.models.timm_models.timm.create_model

    def without_download(name, *, pretrained, **settings):
        model = create(name, pretrained=False, **settings)
        if pretrained:
            made.append(model.conv1.weight.detach().clone())
        return model

    monkeypatch.setattr(alhpo.models.timm_models.timm, "create_model", without_download)
    model = build_model(spec(pretrained=True, in_chans=3), 0)
    assert torch.equal(model.conv1.weight, made[0][:, :, 2:5, 2:5])


# --- names ---------------------------------------------------------------------------------------


def test_unknown_model_is_answered_with_a_close_name():
    with pytest.raises(ConfigurationError, match=r"'resnet19'\. Did you mean 'resnet\d+'\?"):
        check_model_name("resnet19")
    with pytest.raises(ConfigurationError, match=r"timm\.list_models"):
        build_model(spec("no such thing"), 0)


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k", "hf-hub:someone/some_model"])
def test_names_timm_takes(name):
    check_model_name(name)


def test_model_without_the_feature_interface(monkeypatch):
    monkeypatch.setattr(
        alhpo.models.timm_models.timm, "create_model", lambda *_, **__: nn.Linear(2, 2)
    )
    with pytest.raises(ConfigurationError, match="no forward_features/forward_head"):
        build_model(spec(), 0)


class Classifier(nn.Module):
    """The interface of timm's classifiers; subclasses get one thing of it wrong."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 5)

    def forward_features(self, x):
        return x.flatten(1)

    def forward_head(self, x, pre_logits=False):
        return x if pre_logits else self.head(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))

    def get_classifier(self):
        return self.head


class NoFeatures(Classifier):
    def forward_head(self, x):
        return self.head(x)


class NoClasses(Classifier):
    def forward_head(self, x, pre_logits=False):
        raise NotImplementedError("An encoder does not classify.")


class OtherClasses(Classifier):
    def forward_head(self, x, pre_logits=False):
        return x


class Squeezes(Classifier):
    def forward_head(self, x, pre_logits=False):
        return x.squeeze() if pre_logits else self.head(x)


class Maps(Classifier):
    def forward_head(self, x, pre_logits=False):
        return torch.stack([x, x], dim=2) if pre_logits else self.head(x)


class Lists(Classifier):
    def forward_head(self, x, pre_logits=False):
        return [x] if pre_logits else self.head(x)


class LargeImages(Classifier):
    def __init__(self):
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 16, 16)}

    def forward_features(self, x):
        if x.shape[2] < 16:
            raise ValueError("The image is too small.")
        return x[:, :1, :8, :8].flatten(1)


def needs_values(method):
    def wrapped(*args):
        assert sum(value.item() for value in torch.linspace(0, 1, 3)) == 1.5
        return method(*args)

    return wrapped


FAULTS = [
    (NoFeatures, "has a forward_head without pre_logits"),
    (
        NoClasses,
        "cannot be used as a classifier of images of 1 x 8 x 8: .*does not classify. Choose",
    ),
    (OtherClasses, r"a tensor of shape \(1, 64\) of one image, where logits of shape \(1, 5\)"),
    (Squeezes, r"a tensor of shape \(64,\) of one image, where features of shape \(1, D\)"),
    (Maps, "its features have 128 values, and its classifier takes 64"),
    (Lists, r"makes a list of one image, where features of shape \(1, D\)"),
    (LargeImages, "cannot take images of 8 x 8 pixels: .*too small. Set input_size, such as to 16"),
]


@pytest.mark.parametrize(("model", "fault"), FAULTS)
def test_unusable_models_are_refused_before_their_weights_are_made(monkeypatch, model, fault):
    devices = []

    def create(*_, **__):
        made = model()
        devices.append(made.head.weight.device.type)
        return made

    monkeypatch.setattr(alhpo.models.timm_models.timm, "create_model", create)
    with pytest.raises(ConfigurationError, match=f"timm model 'resnet18' .*{fault}"):
        build_model(spec(), 0)
    assert devices == ["meta"]


@pytest.mark.parametrize(("model", "fault"), FAULTS)
@pytest.mark.parametrize("where", ["__init__", "forward_features"])
def test_models_that_need_values_are_checked_with_their_weights(monkeypatch, model, fault, where):
    """timm 0.9 takes rates of stochastic depth from a tensor."""
    kind = type("NeedsValues", (model,), {where: needs_values(getattr(model, where))})
    monkeypatch.setattr(alhpo.models.timm_models.timm, "create_model", lambda *_, **__: kind())
    with pytest.raises(ConfigurationError, match=f"timm model 'resnet18' .*{fault}"):
        build_model(spec(), 0)


def test_a_model_that_works_is_taken(monkeypatch):
    monkeypatch.setattr(
        alhpo.models.timm_models.timm, "create_model", lambda *_, **__: Classifier()
    )
    model = build_model(spec(), 0)
    assert model.training and model.head.weight.device.type == "cpu"
    monkeypatch.setattr(
        alhpo.models.timm_models.timm, "create_model", lambda *_, **__: LargeImages()
    )
    build_model(spec(input_size=16), 0)
    weights = [parameter.clone() for parameter in model.parameters()]
    kind = type("NeedsValues", (Classifier,), {"__init__": needs_values(Classifier.__init__)})
    monkeypatch.setattr(alhpo.models.timm_models.timm, "create_model", lambda *_, **__: kind())
    model = build_model(spec(), 0)
    assert model.training
    assert all(map(torch.equal, model.parameters(), weights))


class NoKernel(Classifier):
    """An operation that torch does not have on the meta device, whatever it says."""

    def forward_features(self, x):
        if x.device.type == "meta":
            raise RuntimeError("unsupported scalarType")
        return super().forward_features(x)


def test_a_model_that_fails_on_the_meta_device_only_is_taken(monkeypatch):
    monkeypatch.setattr(alhpo.models.timm_models.timm, "create_model", lambda *_, **__: NoKernel())
    assert build_model(spec(), 0).training


@pytest.mark.parametrize("kind", [AssertionError, RuntimeError])
def test_what_timm_cannot_make_is_refused(monkeypatch, kind):
    def create(name, *, pretrained, num_classes, in_chans):
        raise kind("only three channels")

    monkeypatch.setattr(alhpo.models.timm_models.timm, "create_model", create)
    with pytest.raises(ConfigurationError, match=r"'resnet18' for images with 1 channels.*three"):
        build_model(spec(), 0)


#: In names of models that are made like others, but of fewer or narrower layers; smallest first.
SMALLER = ["test_", "atto", "femto", "pico", "nano", "tiny", "wee", "mini", "xxs", "xx_small", "xs"]
SMALLER += ["x_small", "small", "_t", "_s", "b0", "26", "18"]


def size(name):
    """A rank of a name by what it says of the model's size."""
    return next((rank for rank, word in enumerate(SMALLER) if word in name), len(SMALLER))


def representatives():
    """One of timm's names, of a small model, for each function and set of parts that architectures
    are made with."""
    names = {}
    for name in sorted(timm.list_models(), key=size):
        entry = timm.model_entrypoint(name)
        if not entry.__module__.startswith("timm."):
            continue  # a toy that another test has registered
        key = (entry.__module__, *sorted(set(entry.__code__.co_names)))
        names.setdefault(key, name)
    return list(names.values())


@pytest.mark.slow
@pytest.mark.skipif(timm.__version__.startswith("0."), reason="cannot make models without weights")
@pytest.mark.parametrize("part", range(4))
def test_every_architecture_of_timm_is_used_or_refused(part):
    """Without weights, so that the largest of them fit. All names would take half an hour, and are
    as their representatives are."""
    used, refused = [], []
    for name in representatives()[part::4]:
        own = timm.get_pretrained_cfg(name).input_size[1]
        one = spec(name, size=own, in_chans=3)
        try:
            with torch.device("meta"):
                model = build_model(one, 0).eval()
        except ConfigurationError as error:
            assert f"timm model {name!r} " in str(error), name
            refused.append(name)
            continue
        used.append(name)
        size, _ = model_input(one, model)
        images = torch.zeros(2, 3, *(size or one.image_size), device="meta")
        with torch.device("meta"), torch.no_grad():
            logits, features = forward_features(model, images)
        assert logits.shape == (2, 5) and features.ndim == 2, name
        head = model.get_classifier() if hasattr(model, "get_classifier") else None
        if isinstance(head, nn.Linear):
            assert features.shape == (2, head.in_features), name
    assert len(used) > 10 * len(refused), refused


def test_identity_tells_specs_apart():
    import json

    specs = [
        spec(),
        spec("resnet34"),
        spec(size=9),
        spec(num_classes=6),
        spec(in_chans=3),
        spec(pretrained=True),
        spec(cifar_stem=True),
        spec(input_size=32),
        spec(dropout=0.5),
    ]
    assert len({json.dumps(one.identity()) for one in specs}) == len(specs)


# --- dropout -------------------------------------------------------------------------------------

FAMILIES = [
    "resnet18",
    "vit_tiny_patch16_224",
    "efficientnet_b0",
    "convnext_atto",
    "mobilenetv3_small_050",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_dropout_is_what_the_classifier_of_every_family_gets_in_training(name):
    """Logits in training mode are the classifier's of the features with a mask of torch's."""
    p = 0.4
    one = spec(name, size=32, in_chans=3, dropout=p)
    model = build_model(one, 0)
    size, _ = model_input(one, model)
    with torch.no_grad(), isolated_torch_rng(torch.device("cpu"), 1):
        images = torch.randn(2, 3, *(size or (32, 32)))
        model.eval()
        hidden = model.forward_features(images)
        logits, features = forward_features(model, images)
        kept = DropoutPasses(features, classifier(model), torch.ones(1, features.shape[1]) > 0, 0)
        torch.testing.assert_close(kept.logits(slice(None))[0], logits, rtol=1e-4, atol=1e-5)

        # the bias and every weight zero but one: the logit shows whether its feature was dropped
        head = classifier(model)
        column = int(features.abs().amin(0).argmax())
        for parameter in head.parameters():
            parameter.zero_()
        head.weight[0, column] = 1
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        seen = torch.stack([model.forward_head(hidden)[:, 0] for _ in range(400)])
    ratios = seen / features[:, column]
    kept_share = ratios.count_nonzero() / ratios.numel()
    assert abs(kept_share - (1 - p)) < 0.1
    torch.testing.assert_close(
        ratios[ratios != 0], torch.full_like(ratios[ratios != 0], 1 / (1 - p)), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("name", ["lcnet_035", "resnet10t", "efficientvit_m0", "regnetx_002"])
def test_dropout_is_found_in_models_that_make_almost_nothing_of_small_images(name):
    assert classifier(build_model(spec(name, dropout=0.5), 0)).out_features == 5


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_dropout_changes_neither_weights_nor_what_follows(name):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with_dropout = build_model(spec(name, dropout=0.5), 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights_hash(with_dropout) == weights_hash(build_model(spec(name), 3))
    assert with_dropout.training


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_dropout_out_of_range(dropout):
    with pytest.raises(ConfigurationError, match=r"dropout is .*\[0, 1\)"):
        build_model(spec(dropout=dropout), 0)


class Ignores(Classifier):
    """A classifier that takes ``drop_rate`` and does nothing with it."""


class Scales(Ignores):
    """Its classifier is not all that is between features and logits."""

    def forward_head(self, x, pre_logits=False):
        return x if pre_logits else 3 * self.head(nn.functional.dropout(x, 0.5, self.training))


class Several(Ignores):
    def get_classifier(self):
        return self.head, self.head


class Hidden(Ignores):
    get_classifier = None


class OtherWidth(Ignores):
    def get_classifier(self):
        return nn.Sequential(self.head)

    def forward_head(self, x, pre_logits=False):
        return x[:, :7] if pre_logits else self.head(x)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Ignores, "it drops nothing there in training"),
        (Scales, "not the output of its classifier"),
        (OtherWidth, "not the output of its classifier"),
        (Several, "it has several classifiers"),
        (Hidden, r"no get_classifier\(\)"),
    ],
)
def test_dropout_that_cannot_be_is_refused(monkeypatch, model, reason):
    monkeypatch.setattr(alhpo.models.timm_models.timm, "create_model", lambda *_, **__: model())
    build_model(spec(), 0)
    with pytest.raises(ConfigurationError, match=f"dropout=0.5 cannot.*'resnet18'.*{reason}"):
        build_model(spec(dropout=0.5), 0)


def test_model_that_knows_no_dropout_is_refused(monkeypatch):
    def create(name, *, pretrained, num_classes, in_chans):
        return Ignores()

    monkeypatch.setattr(alhpo.models.timm_models.timm, "create_model", create)
    with pytest.raises(ConfigurationError, match="does not take timm's drop_rate"):
        build_model(spec(dropout=0.5), 0)


def test_a_model_without_dropout_has_the_identity_it_always_had():
    assert "dropout" not in spec().identity()
    assert spec(dropout=0.5).identity() == spec().identity() | {"dropout": 0.5}
