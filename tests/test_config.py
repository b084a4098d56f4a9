"""Run settings: what is legal, what the messages say, which settings make another run."""

import pytest

from alhpo.base.errors import ConfigurationError
from alhpo.runs.config_files import read_config_file
from alhpo.runs.settings import RunConfig
from alhpo.strategies import (
    get_strategy,
    register_strategy,
    register_strategy_family,
    registry,
)

create = RunConfig.create


@pytest.fixture(autouse=True)
def own_registry():
    with registry.STRATEGIES.temporary():
        yield


def test_defaults_are_legal_and_layers_override():
    assert create() == RunConfig()
    config = create({"seed": 1, "model": "resnet10t"}, {"seed": 2})
    assert (config.seed, config.model) == (2, "resnet10t")
    assert create(config.model_dump()) == config


def test_text_is_read_as_the_type_expected():
    config = create({"budget": "900", "cifar_stem": "false", "pool_size": "10"})
    assert (config.budget, config.cifar_stem, config.pool_size) == (900, False, 10)


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("stategy", "strategy"),
        ("max_epoch", "max_epochs"),
        ("data_set", "dataset"),
        ("Seed", "seed"),
    ],
)
def test_unknown_key_lists_the_legal_ones_and_suggests_the_close_one(typo, meant):
    with pytest.raises(ConfigurationError) as error:
        create({typo: 1})
    message = str(error.value)
    assert f"'{typo}'" in message and f"Did you mean '{meant}'?" in message
    assert all(name in message for name in RunConfig.model_fields)


def test_every_mistake_is_reported_at_once():
    with pytest.raises(ConfigurationError) as error:
        create({"budgt": 3, "seed": -1, "max_epochs": 0})
    assert all(
        name in str(error.value) for name in ("'budgt'", "'seed' is -1", "'max_epochs' is 0")
    )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("image_size", [0, -1, 1.5, "big"]),
        ("pool_size", [0, "all"]),
        ("eval_size", [0, -3]),
        ("input_size", [0, 0.5]),
        ("pretrained", ["perhaps", None]),
        ("cifar_stem", ["perhaps", 7]),
        ("download", [None, 2]),
        ("query_subset", [0, -1]),
        ("dropout", [-0.1, 1, "much", None]),
        ("mc_passes", [0, 1.5]),
        ("vaal_epochs", [0, "some"]),
        ("initial_size", [0, 1, None]),
        ("acquisition_size", [0, -1, 2.5]),
        ("budget", [0, 1, "lots"]),
        ("max_epochs", [0, -1, None]),
        ("max_budget", [0, 1.5]),
        ("num_configurations", [0]),
        ("metric", ["loss", "Accuracy"]),
        ("start", ["hot", None]),
        ("precision", ["float16", "bf16"]),
        ("seed", [-1, 0.5, None]),
        ("hyperparameters", ["lr=0.1", [1], None]),
        ("hpo", ["every", "every:0", "every:-1", "every:1.5", "always", "", "fixed:2", None]),
        ("model", [None, 3]),
        ("dataset", [None, 5]),
    ],
)
def test_illegal_value_is_named(name, values):
    for value in values:
        with pytest.raises(ConfigurationError, match=f"Setting '{name}' is ") as error:
            create({name: value})
        assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("strategy", "bagde", r"Legal: .*badge, .*coreset, .*entropy"),
        ("optimizer", "dyhop", "dyhpo"),
        ("model", "resnet81", "resnet18"),
        ("space", "papers", "Did you mean 'paper'"),
        ("validation", "holdout:2", r"\(0, 1\)"),
        ("validation", "loo", "kfold:5"),
        ("hpo", "every:0", "every:5"),
        ("metric", "loss", "'accuracy', 'balanced-accuracy', 'macro-f1' or 'likelihood'"),
        ("hyperparameters", {"lrr": 1}, "Did you mean 'lr'"),
        ("hyperparameters", {"lr": -1}, "'lr' is -1"),
        ("hyperparameters", {"warmup_epochs": 27}, "warmup_epochs is 27.*max_epochs=27"),
        ("budget", 99, "budget is 99 labels, below initial_size=100"),
    ],
)
def test_message_says_what_is_legal(name, value, message):
    with pytest.raises(ConfigurationError, match=message):
        create({name: value})


def test_keys_that_are_no_text():
    with pytest.raises(ConfigurationError):
        create({1: 2})


# --- when hyperparameters are searched -----------------------------------------------------------


TWELVE_CYCLES = {"initial_size": 100, "acquisition_size": 50, "budget": 650}


@pytest.mark.parametrize(
    ("hpo", "cycles"),
    [
        ("fixed", []),
        ("final", []),
        ("initial", [0]),
        ("per-cycle", [*range(12)]),
        ("every:5", [0, 5, 10]),
        ("every:20", [0]),
        ("at:100,500,650", [0, 8, 11]),
    ],
)
def test_the_cycles_that_search(hpo, cycles):
    config = create(TWELVE_CYCLES, {"hpo": hpo})
    assert sorted(config.search_cycles) == cycles
    assert [c for c in range(12) if config.mode.searches(c, config.sizes, ())] == cycles
    assert config.mode.final_search == (hpo == "final")
    assert config.mode.searches_ever == (hpo != "fixed")


@pytest.mark.parametrize(
    ("hpo", "message"),
    [
        ("sometimes", "'hpo' is 'sometimes': Unknown HPO mode 'sometimes'. Legal: final, fixed"),
        ("per_cycle", "Did you mean 'per-cycle'"),
        ("every:0", "whole number K of at least 1, such as every:5"),
        ("every:K", "whole number K of at least 1, such as every:5"),
        ("every", "Unknown HPO mode"),
        ("at:", "ascending numbers of labels, such as at:100,500"),
        ("at:500,100", "ascending numbers of labels"),
        ("at:100,100", "ascending numbers of labels"),
        ("at:100,520,530", "No cycle has 520 or 530 labels. The cycles of this run have 100, 150,"),
    ],
)
def test_modes_that_are_refused(hpo, message):
    with pytest.raises(ConfigurationError) as caught:
        create(TWELVE_CYCLES, {"hpo": hpo})
    assert message in str(caught.value)


# --- identity ------------------------------------------------------------------------------------

WHERE = {"output_dir": "elsewhere", "device": "cpu", "download": False}
SEARCH = {"optimizer": "random", "max_budget": 7, "num_configurations": 3, "space": "hpo4dl"}
WHAT = {
    "dataset": "torch/mnist",
    "train_split": "a",
    "val_split": "b",
    "image_size": 16,
    "pool_size": 900,
    "eval_size": 90,
    "model": "resnet10t",
    "pretrained": True,
    "cifar_stem": True,
    "input_size": 16,
    "dropout": 0.5,
    "strategy": "random",
    "query_subset": 500,
    "initial_size": 20,
    "acquisition_size": 20,
    "budget": 700,
    "max_epochs": 5,
    "hyperparameters": {"lr": 0.2},
    "validation": "kfold:5",
    "start": "warm",
    "seed": 5,
    "precision": "bfloat16",
}


@pytest.mark.parametrize("hpo", ["fixed", "per-cycle", "every:3", "final"])
def test_name_says_where_nothing_is(hpo):
    base = create({"hpo": hpo})
    for name, value in WHERE.items():
        assert create({"hpo": hpo, name: value}).name == base.name
    for name, value in SEARCH.items():
        same = create({"hpo": hpo, name: value}).name == base.name
        assert same == (hpo == "fixed"), name


@pytest.mark.parametrize("hpo", ["fixed", "per-cycle"])
def test_every_other_setting_makes_another_run(hpo):
    names = [create({"hpo": hpo}).name]
    names += [create({"hpo": hpo, name: value}).name for name, value in WHAT.items()]
    names += [create({"hpo": other}).name for other in ("every:2", "every:3", "final")]
    assert len(set(names)) == len(names)


def test_name_is_a_folder_name_that_says_what():
    config = create(
        {"dataset": "/data/my pets/", "strategy": "entropy", "hpo": "every:5", "seed": 7}
    )
    assert config.name.startswith("my pets-entropy-every-5-seed7-")
    assert not set(config.name) & set('/\\:*?"<>|')
    assert create({"dataset": "torch/cifar10"}).name.startswith("cifar10-badge-fixed-seed0-")


def test_names_of_runs_stay_what_they_were_before_there_was_dropout():
    """The folders of runs that were begun with an earlier version are found again."""
    assert create().name == "digits-badge-fixed-seed0-cd50c21d"
    assert create({"seed": 3, "budget": 700}).name == "digits-badge-fixed-seed3-0c460e25"


def test_settings_without_effect_on_the_strategy_are_not_part_of_the_name():
    assert create({"mc_passes": 7}).name == create().name  # badge looks at no passes
    random = {"strategy": "random"}
    assert create(random | {"query_subset": 50}).name == create(random).name
    assert create({"vaal_epochs": 7}).name == create().name
    vaal = {"strategy": "vaal"}
    assert create(vaal | {"vaal_epochs": 7}).name != create(vaal).name


def test_dropout_and_its_passes_are_part_of_the_name_where_they_matter():
    register_strategy("looks-at-passes", needs={"passes"})(lambda pool, n, generator: None)
    bald = {"strategy": "looks-at-passes", "dropout": 0.5}
    names = [create(bald | more).name for more in ({}, {"dropout": 0.2}, {"mc_passes": 7})]
    assert len({*names, create({"dropout": 0.5}).name, create({"dropout": 0.2}).name}) == 5


def test_passes_without_dropout_are_refused_before_any_work():
    register_strategy("looks-at-passes", needs={"passes"})(lambda pool, n, generator: None)
    with pytest.raises(ConfigurationError, match=r"'looks-at-passes'.*Set dropout=0\.5"):
        create({"strategy": "looks-at-passes"})


def test_a_strategy_with_arguments_gives_a_safe_name_of_bounded_length():
    register_strategy_family("listed", lambda text: get_strategy("random"), "A,B,...")
    names = [
        create({"strategy": f"listed:{text}"}).name
        for text in ("a,b", "a/b", "a\\b", "../a b", "x," * 500, "x," * 501)
    ]
    assert len(set(names)) == len(names)
    for name in names:
        assert not set(name) & set('/\\:*?"<>|, ') and len(name) < 100
    assert names[0].startswith("digits-listed-a-b-fixed-seed0-")


def test_name_does_not_depend_on_order_or_spelling():
    one = create({"seed": 3, "hyperparameters": {"lr": 0.1, "momentum": 0.5}})
    other = create({"hyperparameters": {"momentum": 0.5, "lr": 0.1}, "seed": "3"})
    assert one.name == other.name


@pytest.mark.parametrize(
    ("one", "other"),
    [({"lr": 0.001}, {"lr": "1e-3"}), ({"batch_size": 32}, {"batch_size": 32.0})],
)
def test_name_does_not_depend_on_the_spelling_of_hyperparameters(one, other):
    """YAML reads ``lr: 1e-3`` as text."""
    assert create({"hyperparameters": one}).name == create({"hyperparameters": other}).name


# --- files ---------------------------------------------------------------------------------------


def test_yaml_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("seed: 4\nhyperparameters:\n  lr: 1e-2\n")
    config = create(read_config_file(path), {"budget": 300})
    assert (config.seed, config.budget) == (4, 300)
    path.write_text("# nothing yet\n")
    assert read_config_file(str(path)) == {}


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"just text", b"3"])
def test_yaml_file_of_something_else(tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"run\.yaml holds a .*'name: value'"):
        read_config_file(path)


@pytest.mark.parametrize(
    "content", [b"a: [1, 2", b"a: b: c", b"\xff\xfe\xfa", b"!!python/object/apply:os.getcwd []"]
)
def test_yaml_file_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(
        ConfigurationError, match=r"Cannot read settings from .*run\.yaml"
    ) as caught:
        read_config_file(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [{"budget": True}, {"seed": False}, {"image_size": True}, {"hyperparameters": {"lr": True}}],
)
def test_truth_is_no_number(settings):
    with pytest.raises(ConfigurationError, match="should be a number, not true or false"):
        create(settings)
    assert create({"download": False, "cifar_stem": True}).cifar_stem


def test_no_data_set_is_not_the_working_directory():
    with pytest.raises(ConfigurationError, match="'dataset'"):
        create({"dataset": ""})


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ConfigurationError, match="Cannot read settings"):
            read_config_file(path)
