"""Hyperparameters: legal values, messages; and the spaces they are searched in."""

import json
import math

import ConfigSpace as CS
import pydantic
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from alhpo.base.errors import ConfigurationError
from alhpo.base.plain import to_plain
from alhpo.hyperparameters import (
    SPACES,
    ArchitectureHyperparameters,
    FinetuneHyperparameters,
    Hyperparameters,
    active_configuration,
    check_space,
    hpo4dl_space,
    load_space,
    paper_space,
)

create = Hyperparameters.create


def space_of(*hyperparameters):
    space = CS.ConfigurationSpace()
    add = getattr(space, "add_hyperparameters", None)  # ConfigSpace < 1
    if add is not None:
        add(list(hyperparameters))
    else:
        space.add(*hyperparameters)
    return space


def draws(space, n=200):
    space.seed(0)
    return [{k: to_plain(v) for k, v in dict(c).items()} for c in space.sample_configuration(n)]


# --- values --------------------------------------------------------------------------------------


def test_later_layers_win_and_defaults_lie_below():
    hp = create({"lr": 0.1, "momentum": 0.5}, {"lr": 0.2})
    assert (hp.lr, hp.momentum, hp.batch_size) == (0.2, 0.5, 32)
    assert create() == Hyperparameters()
    assert create(hp.model_dump()) == hp


def test_text_is_read_as_the_type_expected():
    hp = create({"lr": "1e-3", "batch_size": "64", "nesterov": "true", "warmup_epochs": 3.0})
    assert (hp.lr, hp.batch_size, hp.nesterov, hp.warmup_epochs) == (1e-3, 64, True, 3)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lr", [0, -0.1, float("nan"), float("inf"), "fast", None]),
        ("weight_decay", [-1e-9, float("nan"), float("inf"), None]),
        ("momentum", [-0.1, 1, 1.5, float("nan")]),
        ("optimizer", ["SGD", "lion", "", None, 3]),
        ("nesterov", ["perhaps", None, 2]),
        ("batch_size", [1, 0, -4, 32.5, "many", None]),
        ("epoch_images", [0, -3, 1.5, "all", True, None]),
        ("schedule", ["linear", "", None]),
        ("lr_steps", ["batch", 1, None]),
        ("warmup_epochs", [-1, 0.5, None]),
        ("augmentation", ["mixup", "flip-crop", None]),
        ("label_smoothing", [-0.1, 1, 2, float("nan")]),
    ],
)
def test_illegal_values_are_named(name, values):
    for value in values:
        with pytest.raises(ConfigurationError, match=f"Hyperparameter '{name}' is ") as error:
            create({name: value})
        assert repr(value) in str(error.value)


def test_the_table_of_illegal_values_is_complete():
    listed = test_illegal_values_are_named.pytestmark[0].args[1]
    assert {name for name, _ in listed} == set(Hyperparameters.model_fields)


@pytest.mark.parametrize(
    "values",
    [
        {"lr": 1e-12},
        {"lr": 10},
        {"weight_decay": 0},
        {"momentum": 0},
        {"batch_size": 2},
        *({"epoch_images": images} for images in ("fill", "drop", 1)),
        {"label_smoothing": 0},
        {"warmup_epochs": 0},
        *({"augmentation": name} for name in ("auto", "none", "crop", "flip", "crop-flip")),
        *({"schedule": name} for name in ("cosine", "step", "constant")),
        *({"lr_steps": name} for name in ("step", "epoch")),
        *({"optimizer": name} for name in ("sgd", "adam", "adamw")),
        {"nesterov": True},
    ],
)
def test_values_at_the_edge_are_legal(values):
    assert create(values).model_dump().items() >= values.items()


def test_choices_are_listed_when_one_is_illegal():
    with pytest.raises(ConfigurationError, match="'sgd', 'adam' or 'adamw'"):
        create({"optimizer": "lion"})


def test_unknown_name_lists_the_legal_ones_and_suggests_the_close_one():
    with pytest.raises(ConfigurationError) as error:
        create({"weight_decy": 0.1})
    message = str(error.value)
    assert "'weight_decy'" in message and "Did you mean 'weight_decay'?" in message
    assert all(name in message for name in Hyperparameters.model_fields)


def test_every_mistake_is_reported_at_once():
    with pytest.raises(ConfigurationError) as error:
        create({"lr": -1, "batchsize": 3, "momentum": 2})
    assert all(f"'{name}'" in str(error.value) for name in ("lr", "batchsize", "momentum"))


@pytest.mark.parametrize("other", [{"optimizer": "adam"}, {"optimizer": "adamw"}, {"momentum": 0}])
def test_nesterov_needs_sgd_with_momentum(other):
    with pytest.raises(ConfigurationError, match="nesterov=True needs"):
        create({"nesterov": True}, other)


def test_frozen():
    with pytest.raises(pydantic.ValidationError):
        Hyperparameters().lr = 3


@given(st.integers(0, 30), st.integers(1, 30))
def test_warm_up_must_leave_an_epoch(warmup, max_epochs):
    hp = create({"warmup_epochs": warmup})
    if warmup < max_epochs:
        hp.check_epochs(max_epochs)
    else:
        with pytest.raises(ConfigurationError, match=f"warmup_epochs is {warmup}.*={max_epochs};"):
            hp.check_epochs(max_epochs)


# --- the spaces of the package -------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_everything_drawn_from_a_space_is_legal(name):
    own = {"finetune": FinetuneHyperparameters, "architecture": ArchitectureHyperparameters}
    legal = own.get(name.split("-")[0], Hyperparameters)
    for values in draws(load_space(name, legal)):
        assert legal.create(values).model_dump().items() >= values.items()


def test_paper_space():
    values = draws(paper_space(), 1000)
    for name in ("lr", "weight_decay"):
        drawn = [v[name] for v in values]
        assert min(drawn) >= 1e-5 and max(drawn) <= 0.1
        # log-uniform: half of it below the middle decade
        share = sum(v < 1e-3 for v in drawn) / 1000
        assert abs(share - 0.5) < 0.08
    assert all(v.keys() == {"lr", "weight_decay"} for v in values)


def test_hpo4dl_space_has_momentum_for_sgd_only():
    values = draws(hpo4dl_space(), 300)
    assert {v["optimizer"] for v in values} == {"sgd", "adam"}
    for v in values:
        assert ("momentum" in v) == (v["optimizer"] == "sgd")
        assert 1e-5 <= v["lr"] <= 1 and 1e-5 <= v["weight_decay"] <= 1
        assert 0.1 <= v.get("momentum", 0.5) <= 0.99
    assert max(v["lr"] for v in values) > 0.1


def test_each_call_gives_a_space_of_its_own():
    assert load_space("paper") is not load_space("paper")
    space = paper_space()
    assert load_space(space) is space


# --- spaces from files ---------------------------------------------------------------------------


def serialised(space):
    if hasattr(space, "to_serialized_dict"):  # ConfigSpace >= 1
        return space.to_serialized_dict()
    from ConfigSpace.read_and_write import json as configspace_json

    return json.loads(configspace_json.write(space))


@pytest.mark.parametrize("ending", ["json", "yaml", "yml"])
@pytest.mark.parametrize("make", [paper_space, hpo4dl_space])
def test_files_in_configspaces_own_form(tmp_path, ending, make):
    path = tmp_path / f"space.{ending}"
    content = serialised(make())
    path.write_text(json.dumps(content) if ending == "json" else yaml.safe_dump(content))
    for where in (path, str(path)):
        assert load_space(where) == make()
    assert draws(load_space(path), 5) == draws(make(), 5)


@pytest.mark.parametrize("text", ["", "[1, 2", "{}", "lr: 0.1", "[]", "3", "\0"])
@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_files_of_another_form_are_named(tmp_path, text, ending):
    path = tmp_path / f"space.{ending}"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=rf"space\.{ending}|The space is empty"):
        load_space(path)


def test_missing_file_and_unknown_name():
    with pytest.raises(ConfigurationError, match=r"/no/space\.json"):
        load_space("/no/space.json")
    with pytest.raises(ConfigurationError, match=r"Did you mean 'paper'\?.*\.yaml.*hpo4dl"):
        load_space("papers")


# --- spaces that hold what cannot be trained -----------------------------------------------------


@pytest.mark.parametrize(
    ("hyperparameter", "message"),
    [
        (CS.Float("learning_rate", (1e-3, 1)), "'learning_rate'.*weight_decay"),
        (CS.Float("lr", (-1.0, 1.0)), "'lr' is -1.0"),
        (CS.Float("momentum", (0.1, 1.0)), "'momentum' is 1.0"),
        (CS.Integer("batch_size", (1, 64)), "'batch_size' is 1"),
        (CS.Float("batch_size", (2.5, 64.0)), "'batch_size' is 2.5"),
        (CS.Categorical("optimizer", ["sgd", "lion"]), "'optimizer' is 'lion'"),
        (CS.Categorical("schedule", ["cosine", "step", "poly"], ordered=True), "'poly'"),
        (CS.Constant("label_smoothing", 1.0), "'label_smoothing' is 1.0"),
        (CS.OrdinalHyperparameter("batch_size", [1, 2, 4]), "'batch_size' is 1"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.name,
)
def test_space_with_an_illegal_value_is_refused(hyperparameter, message):
    with pytest.raises(ConfigurationError, match=message):
        load_space(space_of(hyperparameter))


@pytest.mark.skipif(not CS.__version__.startswith("0."), reason="ConfigSpace 1 refuses it itself")
@pytest.mark.parametrize(
    ("kind", "name", "bounds"),
    [
        ("NormalFloat", "lr", {}),
        ("NormalFloat", "lr", {"lower": -math.inf, "upper": math.inf}),
        ("NormalInteger", "batch_size", {}),
    ],
)
def test_a_number_without_bounds_is_refused(kind, name, bounds):
    make = getattr(CS.hyperparameters, f"{kind}Hyperparameter")
    space = space_of(make(name, mu=8, sigma=2, **bounds))
    with pytest.raises(ConfigurationError, match=f"'{name}' in the space.*lower= and upper="):
        check_space(space)


def test_empty_space_is_refused():
    with pytest.raises(ConfigurationError, match=r"empty.*lr, weight_decay"):
        load_space(CS.ConfigurationSpace())


def test_space_over_every_hyperparameter_is_legal():
    space = space_of(
        CS.Float("lr", (1e-4, 1.0), log=True),
        CS.Float("weight_decay", (0.0, 0.1)),
        CS.Float("momentum", (0.1, 0.99)),
        CS.Constant("optimizer", "sgd"),
        CS.Categorical("nesterov", [True, False]),
        CS.Integer("batch_size", (2, 256), log=True),
        CS.Categorical("epoch_images", ["fill", "drop"]),
        CS.Categorical("schedule", ["cosine", "step", "constant"]),
        CS.Categorical("lr_steps", ["step", "epoch"]),
        CS.OrdinalHyperparameter("warmup_epochs", [0, 1, 5]),
        CS.Categorical("augmentation", ["none", "crop", "flip", "crop-flip", "auto"]),
        CS.Float("label_smoothing", (0.0, 0.2)),
    )
    check_space(space)
    assert {h.name for h in space.values()} == set(Hyperparameters.model_fields)
    for values in draws(space, 50):
        create(values)


def test_space_whose_combinations_cannot_be_trained_is_refused():
    space = space_of(
        CS.Categorical("optimizer", ["sgd", "adam"]), CS.Categorical("nesterov", [True, False])
    )
    with pytest.raises(ConfigurationError, match="nesterov"):
        check_space(space)


def test_active_configuration_leaves_out_what_is_inactive():
    values = Hyperparameters(lr=0.02, momentum=0.7).model_dump()
    sgd = active_configuration(hpo4dl_space(), values)
    assert sgd == {"lr": 0.02, "weight_decay": 5e-4, "optimizer": "sgd", "momentum": 0.7}
    adam = active_configuration(hpo4dl_space(), values | {"optimizer": "adam"})
    assert adam == {"lr": 0.02, "weight_decay": 5e-4, "optimizer": "adam"}
    for outside in ({"lr": 5.0}, {"optimizer": "adamw"}):
        with pytest.raises(ConfigurationError, match="does not hold"):
            active_configuration(hpo4dl_space(), values | outside)
