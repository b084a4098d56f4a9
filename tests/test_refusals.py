"""What is refused at the door, and what a learner's arguments do and do not change."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from ConfigSpace import CategoricalHyperparameter, ConfigurationSpace, Constant, Float
from ConfigSpace import OrdinalHyperparameter as Ordinal
from ConfigSpace import UniformIntegerHyperparameter as Integer
from toy_models import TOY, alhpo_toy

from alhpo.base.errors import ConfigurationError, LabelError
from alhpo.data.dataset import ImageDataset
from alhpo.learner import ActiveLearner
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.training.compute import Compute
from alhpo.validation import KFold, get_validation

NAME = alhpo_toy.__name__


def learner_of(data, **options) -> ActiveLearner:
    options = {"strategy": "random", "device": "cpu", "max_epochs": 4} | options
    learner = ActiveLearner(data, NAME, **options)
    learner.label_initial(12)
    return learner


def trained(learner, *arguments, **options) -> int:
    epochs: list[int] = []
    learner.fit(*arguments, callback=epochs.append, **options)
    return len(epochs)


def test_the_epochs_of_a_call_are_those_of_the_call_alone(few_digits):
    learner = learner_of(few_digits)
    assert learner.objective(max_epochs=2).max_epochs == 2
    assert learner.objective().max_epochs == 4
    assert trained(learner) == 4
    assert trained(learner, {"lr": 0.01}, max_epochs=1) == 1
    assert trained(learner) == learner.max_epochs == 4


@pytest.mark.parametrize("epochs", [0, -1, 2.5, "3", True])
def test_epochs_that_are_no_number_are_refused(few_digits, epochs):
    learner = learner_of(few_digits)
    for call in (
        lambda: ActiveLearner(few_digits, NAME, max_epochs=epochs),
        lambda: learner.objective(max_epochs=epochs),
        lambda: learner.fit(max_epochs=epochs),
    ):
        with pytest.raises(ConfigurationError, match=f"max_epochs is {epochs!r}; expected"):
            call()


@pytest.mark.parametrize("name", ["query_subset", "mc_passes", "vaal_epochs"])
@pytest.mark.parametrize("value", ["3", 2.5, True, 0])
def test_numbers_of_a_learner_are_whole(few_digits, name, value):
    with pytest.raises(ConfigurationError, match=f"{name} is {value!r}; expected an integer"):
        ActiveLearner(few_digits, NAME, **{name: value})


@pytest.mark.parametrize("n", ["3", 2.5, True, None, np.float64(3), np.array([3, 4]), np.True_])
def test_a_number_of_images_that_is_none_is_refused(few_digits, n):
    learner, new = learner_of(few_digits), ActiveLearner(few_digits, NAME, device="cpu")
    for call in (
        *(learner.ask, learner.query, learner.label_initial, learner.ask_initial),
        *(new.label_initial, new.ask_initial),
    ):
        with pytest.raises(LabelError, match="images were asked for; expected is a whole number"):
            call(n)
    assert (learner.n_labeled, new.n_labeled) == (12, 0)


@pytest.mark.parametrize("n", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_integers_of_numpy_and_torch_are_numbers(few_digits, n):
    learner = learner_of(few_digits)
    assert len(learner.query(n)) == len(learner.ask(n)) == 3
    assert len(ActiveLearner(few_digits, NAME).label_initial(n)) == 3


def test_a_metric_that_there_is_not_is_refused_by_the_learner(few_digits):
    with pytest.raises(ConfigurationError, match=r"Unknown metric 'f1'.*likelihood, macro-f1"):
        ActiveLearner(few_digits, NAME, metric="f1")


@pytest.mark.parametrize("scheme", [3, (), object(), KFold])
def test_an_object_that_is_no_validation_scheme_is_refused(few_digits, scheme):
    with pytest.raises(ConfigurationError, match=r"has no name and splits"):
        ActiveLearner(few_digits, NAME, validation=scheme)


@pytest.mark.parametrize("device", ["mps", "xpu", "meta"])
def test_devices_without_seeded_streams_are_refused(device):
    with pytest.raises(ConfigurationError, match=f"{device}.*not seeded.*Legal: auto, cpu, cuda"):
        Compute.resolve(device)


@dataclass(frozen=True)
class Every:
    """A scheme with a ``scheme`` of its own, which has nothing to do with alhpo's."""

    scheme: object
    name: str = "every-third"

    def splits(self, labels, generator):
        generator.random()
        held_out = np.arange(len(labels)) % 3 == 0
        return [(np.flatnonzero(~held_out), np.flatnonzero(held_out))]


@pytest.mark.parametrize("own", ["systematic", None, KFold(2)])
def test_a_validation_scheme_may_have_an_attribute_scheme(few_digits, own, tmp_path):
    learner = learner_of(few_digits)
    configuration = {"lr": 0.05, "weight_decay": 1e-4}
    rows = [
        learner.objective(validation=Every(one))(configuration, 1, 0, tmp_path / str(number))
        for number, one in enumerate((own, "other"))
    ]
    assert rows[0] == rows[1]


def test_weights_keep_the_splits_of_their_scheme(few_digits, tmp_path):
    learner = learner_of(few_digits)
    configuration = {"lr": 0.05, "weight_decay": 1e-4}
    plain, weighted = (
        learner.objective(validation=scheme)(configuration, 1, 0, tmp_path / str(number))[0]
        for number, scheme in enumerate(("holdout:0.3", "acquisition:holdout:0.3"))
    )
    assert weighted["accuracy_unweighted"] == plain["accuracy"]
    assert get_validation("acquisition:holdout:0.3").scheme == get_validation("holdout:0.3")


LONG = {
    "range": lambda: Integer("warmup_epochs", 0, 4),
    "categorical": lambda: CategoricalHyperparameter("warmup_epochs", [0, 4]),
    "ordinal": lambda: Ordinal("warmup_epochs", [0, 2, 4]),
    "constant": lambda: Constant("warmup_epochs", 4),
}


def space_of(kind) -> ConfigurationSpace:
    return ConfigurationSpace({"lr": Float("lr", (1e-3, 1e-1)), "warmup_epochs": LONG[kind]()})


@pytest.mark.parametrize("kind", LONG)
def test_a_warm_up_in_the_space_that_leaves_nothing_is_refused(few_digits, tmp_path, kind):
    space = space_of(kind)
    learner = learner_of(few_digits, space=space, max_epochs=5)
    assert learner.objective().max_epochs == 5
    match = r"warmup_epochs is 4 in the space, but training ends after max_epochs=4"
    with pytest.raises(ConfigurationError, match=match):
        learner.objective(max_epochs=4)
    with pytest.raises(ConfigurationError, match=match):
        learner_of(few_digits, space=space).objective()


def saved(space, file) -> str:
    if hasattr(space, "to_json"):
        space.to_json(file)
    else:
        from ConfigSpace.read_and_write import json as configspace_json

        file.write_text(configspace_json.write(space))
    return str(file)


@pytest.mark.parametrize("kind", LONG)
def test_a_run_refuses_it_before_its_first_cycle(tmp_path, kind):
    file = saved(space_of(kind), tmp_path / "space.json")
    for hpo in ("final", "per-cycle", "every:2"):
        with pytest.raises(ConfigurationError, match="warmup_epochs is 4 in the space"):
            RunConfig.create(TOY, {"space": file, "hpo": hpo, "max_epochs": 4})
    assert RunConfig.create(TOY, {"space": file, "hpo": "fixed", "max_epochs": 4})  # no search
    with pytest.raises(ConfigurationError, match="warmup_epochs is 4 in the space"):
        TuneConfig.create(
            {"pool": "x", "labels": 4, "space": file, "max_epochs": 4, "max_budget": 9}
        )


def test_a_fixed_warm_up_is_refused_by_every_later_number_of_epochs(few_digits):
    learner = learner_of(few_digits, hyperparameters={"warmup_epochs": 3})
    for call in (learner.objective, learner.fit):
        with pytest.raises(ConfigurationError, match=r"warmup_epochs is 3, but .*max_epochs=3"):
            call(max_epochs=3)


class Counted(torch.Tensor):
    """Images that note how many of them are taken out at once."""

    taken: list[int]

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        chosen = function is torch.Tensor.__getitem__ and isinstance(args[1], torch.Tensor)
        if chosen and result.dtype == torch.uint8:
            Counted.taken.append(len(result))
        return result


@pytest.fixture
def counted() -> ImageDataset:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (3000, 8, 8), dtype=np.uint8)
    data = ImageDataset.from_arrays(images, np.arange(3000) % 5)
    Counted.taken = []
    return replace(data, images=data.images.as_subclass(Counted))


def test_a_query_copies_no_more_than_a_block_of_candidates(counted):
    learner = learner_of(counted, strategy="badge", max_epochs=1)
    learner.fit()
    Counted.taken.clear()
    learner.query(5)
    assert sum(Counted.taken) == len(counted) - 12
    assert max(Counted.taken) <= 1024
    Counted.taken.clear()
    assert learner.predict().logits.shape == (len(counted), 5)
    assert max(Counted.taken) <= 1024


def test_labelled_images_are_copied_once(counted):
    learner = ActiveLearner(counted, NAME, "random", device="cpu", max_epochs=1)
    learner.label_initial(100)
    for validation in ("holdout:0.2", "kfold:5", "random:0.3x3"):
        Counted.taken.clear()
        learner.objective(validation=validation)
        assert Counted.taken == [100]
    Counted.taken.clear()
    learner.fit({"batch_size": 16})
    assert [n for n in Counted.taken if n > 16] == [100]
