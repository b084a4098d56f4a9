"""The family of networks made of stacks of blocks, and the recipe that trains them."""

from __future__ import annotations

import pytest
import timm
import torch

from alhpo import ActiveLearner, ImageDataset, RunConfig
from alhpo.base.errors import CheckpointError, ConfigurationError
from alhpo.models.stacked_resnet import NAME, StackedResNet, most_stacks
from alhpo.models.timm_models import ModelSpec, build_model, weights_hash
from alhpo.testing import check_recipe
from alhpo.training.compute import Compute
from alhpo.training.recipes import RECIPES, get_recipe

CPU = Compute(torch.device("cpu"), "float32", False)
FAST = {"batch_size": 8, "augmentation": "none"}


def network(blocks, stacks, classes=10, channels=3):
    with torch.device("meta"):
        return StackedResNet(blocks, stacks, classes, channels)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def by_formula(i, j, classes, channels):
    """Parameters, counted stack by stack."""
    widths = [64 * 2**s for s in range(j)]
    total = 9 * channels * 64 + 128
    for before, width in zip([64, *widths], widths, strict=False):
        total += 9 * before * width + 9 * width**2 + 4 * width
        total += (before * width + 2 * width) * (width > 64)
        total += (i - 1) * (18 * width**2 + 4 * width)
    return total + widths[-1] * classes + classes


@pytest.mark.parametrize("blocks", [1, 2, 5, 12])
@pytest.mark.parametrize("stacks", [1, 2, 3, 4, 5])
def test_parameters_are_those_of_the_formula(blocks, stacks):
    for classes, channels in ((10, 3), (100, 1)):
        model = network(blocks, stacks, classes, channels)
        assert parameters(model) == by_formula(blocks, stacks, classes, channels)


def test_two_blocks_in_four_stacks_have_the_parameters_of_a_resnet18_with_a_small_stem():
    for classes, count in ((10, 11_173_962), (100, 11_220_132)):
        with torch.device("meta"):
            theirs = timm.create_model("resnet18", num_classes=classes)
        theirs.conv1 = torch.nn.Conv2d(3, 64, 3, bias=False, device="meta")
        assert parameters(network(2, 4, classes)) == parameters(theirs) == count


@pytest.mark.parametrize(
    ("architecture", "count"),
    [((1, 1), 76_490), ((2, 1), 150_474), ((1, 2), 307_274), ((12, 5), 296_235_594)],
)
def test_published_sizes(architecture, count):
    assert parameters(network(*architecture)) == count


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (9, 17)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("blocks", "stacks"), [(1, 1), (2, 1), (1, 3), (2, 4)])
def test_features_and_logits(size, channels, blocks, stacks):
    model = timm.create_model(
        NAME, blocks=blocks, stacks=stacks, num_classes=7, in_chans=channels
    ).eval()
    images = torch.randn(3, channels, *size)
    with torch.no_grad():
        hidden = model.forward_features(images)
        features = model.forward_head(hidden, pre_logits=True)
        logits = model(images)
        assert torch.equal(model.get_classifier()(features), logits)
    assert features.shape == (3, model.num_features) == (3, 64 * 2 ** (stacks - 1))
    assert logits.shape == (3, 7)
    assert [info["num_chs"] for info in model.feature_info] == [64 * 2**s for s in range(stacks)]


def test_stacks_end_at_a_single_pixel():
    for size, most in ((8, 3), (16, 4), (17, 5), (28, 5), (32, 5), (2, 1), (1, 1)):
        assert most_stacks((size, size)) == most
        maps = []  # that each stack after the first strides over
        side = -(-size // 2)
        for _ in range(1, most):
            maps.append(side)
            side = -(-side // 2)
        assert all(one > 1 for one in maps) and side == 1
    assert most_stacks((8, 32)) == 5


def test_they_go_everywhere_that_models_of_timm_go():
    names = timm.list_models("stacked*")
    assert names == [NAME]
    spec = ModelSpec(NAME, 4, 1, (8, 8), dropout=0.5)  # whose dropout is checked
    model = build_model(spec, 0, shape={"blocks": 1, "stacks": 2})
    assert weights_hash(model) == weights_hash(build_model(spec, 0, shape={"stacks": 2}))
    with pytest.raises(ConfigurationError, match=r"No pretrained weights exist|timm has none"):
        build_model(ModelSpec(NAME, 4, 3, (8, 8), pretrained=True), 0)
    with pytest.raises(ConfigurationError, match="no conv1 and maxpool"):
        build_model(ModelSpec(NAME, 4, 3, (32, 32), cifar_stem=True), 0)


@pytest.mark.parametrize(
    ("recipe", "captured"), [("architecture", True), ("architecture-loss", False)]
)
def test_the_recipe_conforms(recipe, captured):
    compute = Compute(torch.device("cpu"), "float32", False, captured)
    given = FAST | {"blocks": 1, "stacks": 2}
    check_recipe(recipe, given, other=FAST | {"stacks": 1}, model=NAME, compute=compute)


def test_the_same_architecture_and_seed_start_from_the_same_weights():
    make = RECIPES.get("architecture")
    spec = ModelSpec(NAME, 3, 1, (8, 8))

    def start(seed, **architecture):
        hp = make.hyperparameters.create(FAST, architecture)
        return weights_hash(make(spec, seed).start(hp, 2, CPU).model)

    assert start(0, blocks=2, stacks=2) == start(0, blocks=2, stacks=2)
    assert len({start(0), start(1), start(0, blocks=2), start(0, stacks=2)}) == 4


def toy_images(n=40, size=8):
    images = torch.randint(256, (n, size, size, 1), dtype=torch.uint8)
    labels = torch.arange(n) % 3
    return ImageDataset("toy", images[:-8], labels[:-8], images[-8:], labels[-8:], ("a", "b", "c"))


def learner_of(data, **given):
    given = {"hyperparameters": FAST, "max_epochs": 2, "precision": "float32"} | given
    given = {"strategy": "entropy"} | given
    learner = ActiveLearner(data, recipe="architecture", **given)
    learner.label_initial(20)
    return learner


def test_the_width_of_features_changes_from_fit_to_fit(tmp_path):
    learner = learner_of(toy_images(), strategy="badge")
    widths = []
    for stacks in (1, 2, 3):
        learner.fit({"stacks": stacks}, checkpoint_path=tmp_path / str(stacks))
        learner.query(2)
        widths.append(learner.predict([0, 1]).features.shape[1])
    assert widths == [64, 128, 256]
    learner.restore(tmp_path / "1")
    assert learner.predict([0]).features.shape == (1, 64)


def test_a_checkpoint_of_another_architecture_is_refused_by_name(tmp_path):
    objective = learner_of(toy_images()).objective(space="architecture-2")
    objective({"blocks": 1, "stacks": 1}, 1, 0, tmp_path / "trial")
    with pytest.raises(CheckpointError, match=r"stacks=1 \(asked for: 2\)"):
        objective({"blocks": 1, "stacks": 2}, 2, 1, tmp_path / "trial")
    assert [row["epoch"] for row in objective({"blocks": 1, "stacks": 1}, 2, 1, tmp_path / "trial")]


def test_more_stacks_than_the_images_have_room_for_are_refused_before_any_work():
    with pytest.raises(ConfigurationError, match=r"stacks is 4, but images of 8 x 8 pixels .* 3"):
        learner_of(toy_images(), hyperparameters=FAST | {"stacks": 4})
    learner = learner_of(toy_images())
    for refused in (learner.check_space, learner.objective):
        with pytest.raises(ConfigurationError, match="'architecture-3'"):
            refused()
    learner.objective(space="architecture-3")
    with pytest.raises(ConfigurationError, match="at most 3"):
        learner.fit({"stacks": 5})
    larger = learner_of(toy_images(), input_size=16, hyperparameters=FAST | {"stacks": 4})
    with pytest.raises(ConfigurationError, match="'architecture-4'"):
        larger.check_space()


def test_a_warm_start_and_other_models_are_refused():
    for refused in (
        lambda: RunConfig.create({"recipe": "architecture", "start": "warm"}),
        lambda: learner_of(toy_images(), start="warm"),
    ):
        with pytest.raises(ConfigurationError, match="no warm start"):
            refused()
    for model, further in (("resnet18", {}), (NAME, {"pretrained": True})):
        with pytest.raises(ConfigurationError, match="family 'stacked_resnet'"):
            learner_of(toy_images(), model=model, **further)


def test_settings_of_the_recipe_have_its_defaults():
    config = RunConfig.create({"recipe": "architecture"})
    assert (config.model, config.space) == (NAME, "architecture")
    for stray in ({"blocks": 2}, {"stacks": 2}):
        with pytest.raises(ConfigurationError, match="Unknown hyperparameter"):
            RunConfig.create({"hyperparameters": stray})
    assert get_recipe("architecture", frozenset({"predicted_losses"})) is RECIPES.get(
        "architecture-loss"
    )


def test_losses_are_predicted_and_passes_drawn():
    learner = ActiveLearner(
        toy_images(),
        recipe="architecture",
        strategy="lpl",
        hyperparameters=FAST | {"stacks": 2},
        max_epochs=2,
    )
    learner.label_initial(20)
    learner.fit()
    assert len(learner.query(3).indices) == 3
    learner = learner_of(toy_images(), strategy="bald", dropout=0.5, mc_passes=4)
    learner.fit({"stacks": 2})
    assert len(learner.query(3).indices) == 3
