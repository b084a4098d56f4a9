"""The recipe "finetune": layer groups, cutting, cached activations, runs and sessions of it."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import timm
import torch
from hpo4dl_tuner import best_of_hpo4dl
from timm.optim.optim_factory import param_groups_layer_decay
from toy_models import alhpo_stages, alhpo_toy, random_weights

import alhpo.training.activations
from alhpo import ActiveLearner, RunConfig, load_dataset, run_experiment
from alhpo.base.errors import ConfigurationError
from alhpo.cli.options import given_settings
from alhpo.data.batches import InputFormat
from alhpo.data.views import ImageViews
from alhpo.hyperparameters import FinetuneHyperparameters, finetune_space, load_space
from alhpo.hyperparameters.conditions import is_active
from alhpo.models.cutting import find_cut
from alhpo.models.layer_groups import layer_groups
from alhpo.models.timm_models import ModelSpec, build_model
from alhpo.testing import check_recipe
from alhpo.training.compute import Compute
from alhpo.training.recipes.finetune import FinetuneRecipe

CPU = Compute(torch.device("cpu"), "float32", False)
MODEL = alhpo_stages.__name__
#: A small member of each family, and the side in pixels of the images for it.
FAMILIES = {
    "resnet10t": 32,
    "tf_efficientnet_lite0": 32,
    "convnext_atto": 32,
    "vit_tiny_patch16_224": 32,
    "mobilenetv3_small_050": 32,
    "swin_tiny_patch4_window7_224": 224,
}
FIVE = list(FAMILIES)[:5]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return random_weights(tmp_path_factory.mktemp("weights"), MODEL)


@pytest.fixture(scope="module")
def digits_200():
    return load_dataset("digits", pool_size=200, eval_size=100)


def learner_of(dataset, weights, **changes):
    options = {"max_epochs": 3, "device": "cpu"} | changes
    return ActiveLearner(dataset, MODEL, "margin", recipe="finetune", weights=weights, **options)


def recipe_of(tmp_path, name, side, dropout=0.0):
    options = {"img_size": side} if name.startswith("vit") else {}
    weights = random_weights(tmp_path, name, 3, **options)
    spec = ModelSpec(name, 4, 3, (side, side), weights=weights, input_size=side, dropout=dropout)
    return FinetuneRecipe(spec, 0)


def images_of(side, n=20, channels_last=False, in_chans=3):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (n, side, side, in_chans), generator=generator, dtype=torch.uint8)
    form = InputFormat((0.5,) * in_chans, (0.25,) * in_chans, channels_last=channels_last)
    return form.on_device(pixels, torch.arange(n) % 4, torch.device("cpu"))


def losses_of(recipe, images, compute=CPU, epochs=3, **values):
    hp = FinetuneHyperparameters.create({"batch_size": 8}, values).resolved("crop-flip")
    training = recipe.start(hp, epochs, compute)
    return [training.epoch(images, epoch, 3) for epoch in range(epochs)], training


# ------------------------------------------------------------------------------ layers and cutting


@pytest.mark.parametrize("name", FAMILIES)
def test_layer_groups_are_those_of_timms_layer_decay(tmp_path, name):
    model = timm.create_model(name, num_classes=4)
    groups = layer_groups(model)
    names = [name for stage in groups.stages for name in stage]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    head = {id(p) for p in model.get_classifier().parameters()}
    assert {id(model.get_parameter(name)) for name in groups.stages[-1]} == head
    theirs = param_groups_layer_decay(model, 0.0, layer_decay=0.7)
    scales = {id(p): group["lr_scale"] for group in theirs for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert 0.7 ** groups.above[name] == pytest.approx(scales[id(parameter)])


def test_where_training_begins_is_counted_from_the_end():
    groups = layer_groups(timm.create_model("resnet10t"))
    assert len(groups.stages) == 6
    assert [groups.first(n) for n in (0, -1, -2, -5, -6, -99)] == [0, 5, 4, 1, 0, 0]
    assert groups.trained(5) == {"fc.weight", "fc.bias"}
    assert all(name.startswith(("layer4.", "fc.")) for name in groups.trained(4))


def test_a_model_that_computes_between_its_modules_is_not_cut():
    """The toy divides by the contrast of an image before its first module: cut, it would do so
    twice."""
    model = timm.create_model(alhpo_toy.__name__, num_classes=3, in_chans=1)
    trained = {n for n, _ in model.named_parameters() if n.startswith(("body.3", "fc"))}
    assert find_cut(model, trained, (1, 8, 8)) is None
    assert find_cut(model, {"fc.weight", "fc.bias"}, (1, 8, 8)) is not None


# ------------------------------------------------------------- activations and whole forward passes


@pytest.mark.parametrize("name", FIVE)
def test_cached_activations_train_as_whole_forward_passes(tmp_path, name):
    """With and without augmentation: a view is the same image in both."""
    side = FAMILIES[name]
    recipe = recipe_of(tmp_path, name, side)
    for train_from, views, channels_last in ((-1, 1, False), (-3, 1, True), (-3, 3, False)):
        found = []
        for cut in (True, False):
            recipe._cuts.clear()
            if not cut:
                recipe._cuts[recipe._groups.first(train_from)] = None
            images = images_of(side, n=12, channels_last=channels_last)
            compute = replace(CPU, channels_last=channels_last)
            options = {"train_from": train_from, "views": views, "lr": 0.01}
            found.append(losses_of(recipe, images, compute, epochs=2, **options))
            training = found[-1][1]
            assert (training._steps.model is training.model) != cut
        (mine, training), (theirs, other) = found
        assert mine == pytest.approx(theirs, rel=1e-3)
        for one, two in zip(training.model.parameters(), other.model.parameters(), strict=True):
            assert torch.allclose(one, two, rtol=1e-2, atol=1e-4)


def test_what_is_not_stored_gives_the_same_bits(tmp_path, monkeypatch):
    stored, training = losses_of(recipe_of(tmp_path, MODEL, 8), images_of(8))
    monkeypatch.setenv("ALHPO_CACHE_GIB", "0")
    monkeypatch.setenv("ALHPO_CACHE", str(tmp_path / "none"))
    computed, other = losses_of(recipe_of(tmp_path, MODEL, 8), images_of(8))
    assert stored == computed
    for one, two in zip(training.tensors().values(), other.tensors().values(), strict=True):
        assert torch.equal(one, two)


def test_the_untrained_part_runs_once_for_each_view(tmp_path, monkeypatch):
    passed = []
    encode = alhpo.training.activations.Activations._encode

    def counted(self, places):
        passed.append(len(places))
        return encode(self, places)

    monkeypatch.setattr(alhpo.training.activations.Activations, "_encode", counted)
    recipe, images = recipe_of(tmp_path, MODEL, 8), images_of(8)
    losses_of(recipe, images, views=3)
    losses_of(recipe, images, views=3, lr=0.1)
    assert sum(passed) == 60
    losses_of(recipe_of(tmp_path, MODEL, 8), images_of(8, n=25), views=3)  # five more images
    more = sum(passed) - 60
    assert more > 0
    model = losses_of(recipe, images, views=3)[1].model
    recipe.rest(model, images, CPU)  # view 0 is there
    assert sum(passed) - 60 == more
    losses_of(recipe, images, views=3, train_from=-2)  # another depth
    assert sum(passed) == 60 + more + 60


def test_views_are_the_image_and_its_variations():
    images = images_of(8)
    every = torch.arange(20)
    plain = next(images.blocks())[0]
    views = ImageViews(images, "crop-flip", 4)
    assert torch.equal(views.batch(every, torch.zeros_like(every)), plain)
    assert len(set(views.identities())) == 80
    assert ImageViews(images, "none", 4).count == 1
    mirrored = ImageViews(images, "flip", 4)
    assert mirrored.count == 2
    assert torch.equal(mirrored.batch(every, torch.ones_like(every)), plain.flip(3))
    again = ImageViews(images.part(every), "crop-flip", 9)  # more views, the same ones
    for view in range(4):
        chosen = torch.full_like(every, view)
        assert torch.equal(views.batch(every, chosen), again.batch(every, chosen))
    turned = ImageViews(images, "rotate", 4)
    assert turned.count == 4
    assert torch.equal(turned.batch(every, torch.zeros_like(every)), plain)
    assert not torch.equal(*(turned.batch(every, torch.full_like(every, view)) for view in (1, 2)))
    crops = views.batch(every, torch.full_like(every, 2)) - plain
    assert (crops.flatten(1).abs().amax(1) > 0).sum() > 10  # a ninth stay as they are


# ---------------------------------------------------------------------------------- what is trained


def test_what_is_not_trained_stays_and_has_no_weight_decay(tmp_path):
    recipe = recipe_of(tmp_path, MODEL, 8)
    before = {name: value.clone() for name, value in recipe.template.state_dict().items()}
    _, training = losses_of(recipe, images_of(8), train_from=-2, weight_decay=0.5)
    after = training.model.state_dict()
    trained = recipe._groups.trained(recipe._groups.first(-2))
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == trained
    for name, value in recipe.template.state_dict().items():
        assert torch.equal(before[name], value)


@pytest.mark.parametrize("cut", [True, False])
def test_batch_norms_keep_their_statistics_unless_asked(tmp_path, cut):
    recipe = recipe_of(tmp_path, MODEL, 8)
    if not cut:
        recipe._cut = lambda first: None
    for choice, changes in (("keep", False), ("update", True)):
        _, training = losses_of(recipe, images_of(8), train_from=-2, batch_norm=choice)
        names = {
            name
            for name, value in training.model.named_buffers()
            if not torch.equal(value, recipe.template.get_buffer(name))
        }
        assert bool(names) == changes
        assert all(name.startswith(("stages.2.", "norm.")) for name in names)


def test_the_learning_rates_of_layers(tmp_path):
    recipe = recipe_of(tmp_path, MODEL, 8)
    hp = FinetuneHyperparameters.create(
        {"lr": 0.2, "backbone_lr": 0.1, "layer_decay": 0.5, "train_from": 0}
    )
    training = recipe.start(hp, 3, CPU)
    scales = {
        id(p): group["lr_scale"]
        for group in training._steps._optimizer.param_groups
        for p in group["params"]
    }
    of = {name: scales[id(p)] for name, p in training.model.named_parameters()}
    assert of["fc.weight"] == 1
    assert of["norm.weight"] == pytest.approx(0.1)
    assert of["stages.2.conv.weight"] == pytest.approx(0.05)
    assert of["stem.0.weight"] == pytest.approx(0.1 * 0.5**4)
    training.epoch(images_of(8), 0, 3)
    rates = {group["lr_scale"]: group["lr"] for group in training._steps._optimizer.param_groups}
    assert rates[1.0] == pytest.approx(0.2)


def test_a_backbone_rate_of_zero_trains_the_classifier_alone(tmp_path):
    recipe = recipe_of(tmp_path, MODEL, 8)
    nothing, _ = losses_of(recipe, images_of(8), backbone_lr=0.0, weight_decay=0.0)
    alone, _ = losses_of(recipe, images_of(8), train_from=-1, weight_decay=0.0)
    assert nothing == pytest.approx(alone, rel=1e-5)


def test_stochastic_depth_is_of_what_is_trained(tmp_path):
    recipe = recipe_of(tmp_path, MODEL, 8)
    dry, _ = losses_of(recipe, images_of(8), train_from=-2)
    wet, training = losses_of(recipe, images_of(8), train_from=-2, drop_path=0.8)
    assert dry != wet
    assert training.model.stages[2].drop_path.drop_prob == pytest.approx(0.8)
    assert training.model.stages[1].drop_path.drop_prob == pytest.approx(0.4)
    again, _ = losses_of(recipe, images_of(8), train_from=-2)
    assert again == dry


def test_stochastic_depth_is_refused_where_there_is_none(tmp_path):
    recipe = recipe_of(tmp_path, alhpo_toy.__name__, 8)
    with pytest.raises(ConfigurationError, match=r"drop_path is 0.1.*no stochastic depth"):
        losses_of(recipe, images_of(8), drop_path=0.1)


def test_dropout_comes_before_the_classifier(tmp_path):
    for train_from in (-1, -2):
        dry, wet = (recipe_of(tmp_path, MODEL, 8, dropout=p) for p in (0.0, 0.5))
        losses = [losses_of(one, images_of(8), train_from=train_from)[0] for one in (dry, wet)]
        assert losses[0] != losses[1]


def test_a_checkpoint_holds_what_is_trained(tmp_path):
    recipe = recipe_of(tmp_path, MODEL, 8)
    _, training = losses_of(recipe, images_of(8), train_from=-1)
    assert sum(tensor.numel() for tensor in training.tensors().values()) <= 2 * (6 * 4 + 4)


# -------------------------------------------------------------------------------- captured steps


CAPTURED = replace(CPU, captured=True)
CHOICES = [
    {"train_from": -1},
    {"train_from": -2, "batch_norm": "update", "views": 1},
    {"train_from": 0, "layer_decay": 0.5, "backbone_lr": 0.3, "drop_path": 0.5},
    {"train_from": -3, "optimizer": "adamw", "lr": 2**-8, "schedule": "constant"},
]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("cut", [True, False])
def test_captured_steps_are_eager_ones(tmp_path, choice, precision, cut):
    """Up to the rounding of the optimizer, which has all parameters of a rate in one tensor."""
    found = []
    for compute in (replace(CPU, precision=precision), replace(CAPTURED, precision=precision)):
        recipe = recipe_of(tmp_path, MODEL, 8, dropout=0.3)
        if not cut:
            recipe._cut = lambda first: None
        assert recipe.trains_together(compute) == compute.captured
        found.append(losses_of(recipe, images_of(8), compute, **choice))
    (eager, one), (captured, two) = found
    assert captured == pytest.approx(eager, rel=1e-4 if precision == "float32" else 1e-2)
    theirs = two.model.state_dict()
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-2, atol=1e-3, msg=name)


def test_activations_that_do_not_fit_the_device_are_fetched_with_the_same_result(
    tmp_path, monkeypatch
):
    resident, training = losses_of(recipe_of(tmp_path, MODEL, 8), images_of(8), CAPTURED)
    monkeypatch.setattr(alhpo.training.activations.Activations, "_fits", lambda self, total: False)
    fetched, other = losses_of(recipe_of(tmp_path, MODEL, 8), images_of(8), CAPTURED)
    assert resident == fetched
    for one, two in zip(training.tensors().values(), other.tensors().values(), strict=True):
        assert torch.equal(one, two)


def test_a_captured_training_takes_the_untrained_part_of_its_checkpoint(tmp_path):
    """Also if it has trained before it is restored."""
    first = recipe_of(tmp_path, MODEL, 8)
    warm = first.from_model(losses_of(first, images_of(8), CAPTURED, train_from=0)[1].model)
    training = losses_of(warm, images_of(8), CAPTURED, train_from=-2)[1]
    other = losses_of(first, images_of(8), CAPTURED, train_from=-2)[1]
    other.restore({name: value.clone() for name, value in training.tensors().items()})
    for name, value in training.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value)


# ------------------------------------------------------------------------------- what a recipe owes


@pytest.mark.parametrize(
    "configuration",
    [
        {},
        {"train_from": -1, "views": 1},
        {"train_from": 0, "drop_path": 0.3, "batch_norm": "update", "augmentation": "crop"},
        {"optimizer": "adamw", "lr": 0.001, "layer_decay": 0.5, "train_from": -2},
    ],
)
@pytest.mark.parametrize("compute", [CPU, CAPTURED], ids=["eager", "captured"])
def test_it_conforms(weights, configuration, compute):
    values = {"batch_size": 8, **configuration}
    check_recipe("finetune", values, model=MODEL, weights=weights, compute=compute)


def test_a_model_that_is_not_cut_conforms(tmp_path):
    weights = random_weights(tmp_path, alhpo_toy.__name__)
    values = {"batch_size": 8, "train_from": -2}
    check_recipe("finetune", values, model=alhpo_toy.__name__, weights=weights)


def test_random_weights_are_refused(digits_200):
    with pytest.raises(ConfigurationError, match=r"pretrained weights.*--weights"):
        ActiveLearner(digits_200, MODEL, recipe="finetune")


def test_the_space_is_conditional():
    space = finetune_space()
    assert not is_active(space, "backbone_lr", {"train_from": -1})
    assert is_active(space, "backbone_lr", {"train_from": -2})
    space.seed(0)
    sampled = [dict(one) for one in space.sample_configuration(200)]
    for one in sampled:
        assert ("backbone_lr" in one) == (one["train_from"] < -1)
        FinetuneHyperparameters.create(one)
    assert {one["train_from"] for one in sampled} == {-4, -3, -2, -1}
    assert load_space("finetune", FinetuneHyperparameters).keys() == space.keys()
    with pytest.raises(ConfigurationError, match="train_from"):
        load_space("finetune")


def test_the_defaults_are_those_of_fine_tuning(digits_200, weights):
    learner = learner_of(digits_200, weights, max_epochs=None)
    assert learner.max_epochs == 30 and learner.validation.name == "holdout:0.2x3"
    config = RunConfig(recipe="finetune", weights=weights, model=MODEL)
    assert (config.max_epochs, config.max_budget, config.space) == (30, 120, "finetune")
    assert config.metric == "likelihood"
    assert given_settings({"finetune": True, "seed": None}) == {"recipe": "finetune"}
    with pytest.raises(ConfigurationError, match="--finetune and --recipe network"):
        given_settings({"finetune": True, "recipe": "network"})
    with pytest.raises(ConfigurationError, match="--frozen and --finetune"):
        given_settings({"finetune": True, "frozen": True})


def test_a_run_is_identified_by_weights_depth_and_views(weights, tmp_path):
    def name(**changes):
        settings = {"recipe": "finetune", "model": MODEL, "weights": weights} | changes
        return RunConfig.create(settings).name

    shutil.copy(weights, tmp_path / "copy.safetensors")
    same = name(weights=str(tmp_path / "copy.safetensors"))
    other = random_weights(tmp_path, MODEL, 3)
    names = [
        name(),
        name(weights=other),
        name(hyperparameters={"train_from": -2}),
        name(hyperparameters={"views": 3}),
        name(recipe="network"),
    ]
    assert same == names[0] and len(set(names)) == len(names)


def test_features_are_the_trained_networks_own(digits_200, weights):
    learner = learner_of(digits_200, weights, hyperparameters={"train_from": -3})
    learner.label_initial(40)
    learner.fit()
    outputs = learner.predict()
    model = build_model(ModelSpec(MODEL, 10, 1, (8, 8)), 0).eval()
    model.load_state_dict(learner.model.state_dict())
    pixels = digits_200.images.permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(part)[:, None, None] for part in digits_200.channel_statistics())
    with torch.no_grad():
        hidden = model.forward_features((pixels - mean) / std)
        features = model.forward_head(hidden, pre_logits=True)
        logits = model.forward_head(hidden)
    assert torch.allclose(outputs.features, features, atol=1e-4)
    assert torch.allclose(outputs.logits, logits, atol=1e-4)
    assert learner.evaluate().nll == pytest.approx(whole_nll(learner), rel=1e-4)
    for strategy in ("badge", "uherding", "dropquery"):
        assert len(learner.ask(3, strategy=strategy).indices) == 3


def whole_nll(learner):
    """Of the evaluation split, by a forward pass of the whole network."""
    data = learner.dataset
    images = learner._form.on_device(data.eval_images, data.eval_labels, torch.device("cpu"))
    with torch.no_grad():
        logits = torch.cat([learner.model.eval()(inputs) for inputs, _ in images.blocks()])
    return float(torch.nn.functional.cross_entropy(logits, data.eval_labels))


def test_warm_and_cold_start(digits_200, weights, tmp_path):
    """Cold starts from the pretrained weights; warm from the network fitted before, whose untrained
    part may have been trained then."""
    cold, warm = (learner_of(digits_200, weights, start=start) for start in ("cold", "warm"))
    deep = {"train_from": -3, "lr": 0.3, "backbone_lr": 1.0, "batch_size": 8}
    for learner in (cold, warm):
        learner.label_initial(40)
        learner.fit({"train_from": -2}, max_epochs=1)  # its activations are those of other weights
        learner.first = learner.fit(deep)
    assert cold.fit(deep) == cold.first
    assert warm.first != cold.first
    before = {name: value.clone() for name, value in warm.model.state_dict().items()}
    again = warm.fit({"train_from": -2, "lr": 0.1, "batch_size": 8})
    assert again.nll == pytest.approx(whole_nll(warm), rel=1e-4)
    for name, value in warm.model.state_dict().items():
        if not name.startswith(("stages.2.", "norm.", "fc.")):
            assert torch.equal(before[name], value)
    warm.fit({"train_from": -1}, checkpoint_path=tmp_path)
    other = learner_of(digits_200, weights, start="warm")
    other.label_initial(40)
    other.restore(tmp_path)
    assert torch.equal(other.predict().logits, warm.predict().logits)
    assert other.evaluate() == warm.evaluate()


@pytest.mark.parametrize("hpo", ["fixed", "per-cycle", "final"])
def test_runs_search_where_to_train_from(few_digits, weights, tmp_path, hpo):
    config = {
        "recipe": "finetune",
        "model": MODEL,
        "weights": weights,
        "strategy": "badge",
        "hpo": hpo,
        "initial_size": 20,
        "acquisition_size": 10,
        "budget": 40,
        "max_epochs": 2,
        "max_budget": 8,
        "optimizer": "random",
        "output_dir": str(tmp_path),
        "device": "cpu",
        "precision": "float32",
    }
    result = run_experiment(config, dataset=few_digits)
    assert len(result.records) == 3 + (hpo == "final")
    assert {"train_from", "backbone_lr", "views"} <= set(result.records[0].configuration)
    shutil.rmtree(result.path)
    again = run_experiment(config, dataset=few_digits)
    assert [r.test for r in again.records] == [r.test for r in result.records]


@pytest.mark.hpo4dl
def test_hpo4dl_drives_fine_tuning(digits_200, weights, tmp_path):
    learner = learner_of(digits_200, weights)
    learner.label_initial(30)
    best = best_of_hpo4dl(learner.objective(), 3, 6, tmp_path)
    assert 0 < best["metric"] <= 1
