"""The resumable objective: exact resume, refused checkpoints, divergence, small label sets."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import ConfigSpace as CS
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from alhpo import ActiveLearner, ImageDataset
from alhpo.base.errors import CheckpointError, ConfigurationError
from alhpo.hyperparameters import hpo4dl_space, paper_space
from alhpo.training.checkpoints import FILE_NAME
from alhpo.training.trainer import Trainer

CONFIGURATION = {"lr": 0.05, "weight_decay": 1e-3}
SETTINGS = {
    "sgd": {"batch_size": 8, "momentum": 0.9},
    "nesterov": {"batch_size": 8, "nesterov": True, "schedule": "step"},
    "adam": {"batch_size": 8, "optimizer": "adam", "schedule": "constant"},
    "adamw": {"batch_size": 8, "optimizer": "adamw", "warmup_epochs": 3, "label_smoothing": 0.1},
    "no momentum": {"batch_size": 8, "momentum": 0.0, "augmentation": "crop-flip"},
}


def learner_of(dataset: ImageDataset, n: int = 24, **options) -> ActiveLearner:
    options = {"model": "alhpo_toy", "max_epochs": 10, "precision": "float32"} | options
    learner = ActiveLearner(dataset, **options)
    learner.label_initial(n)
    return learner


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / FILE_NAME)


def assert_same_weights(first: Path, second: Path) -> None:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def in_a_process(function, *args):
    """Call in a process of its own (forked, so that it need not import torch again)."""
    if "ray" in sys.modules:
        pytest.skip("a test in this process has loaded Ray, whose library crashes in forks")
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(function(*args)))
    process.start()
    sender.close()  # so that the end of the process ends the wait
    result = receiver.recv()
    process.join()
    return result


@pytest.mark.parametrize(
    ("name", "validation"),
    [
        pytest.param(name, scheme, marks=[] if i % 3 == j else pytest.mark.slow)
        for i, name in enumerate(SETTINGS)
        for j, scheme in enumerate(("holdout:0.25", "holdout:0.25x2", "kfold:2"))
    ],
)
def test_ten_epochs_at_once_equal_ten_calls_and_ten_processes(
    few_digits, tmp_path, name, validation
):
    learner = learner_of(few_digits, hyperparameters=SETTINGS[name], validation=validation)
    whole, stepwise = tmp_path / "whole", tmp_path / "stepwise"
    processes = tmp_path / "processes"
    at_once = learner.objective()(CONFIGURATION, 10, 0, str(whole))
    one_by_one = []
    for epoch in range(10):
        # a new objective reads the checkpoint, the old one has the models in memory
        objective = learner.objective() if epoch % 3 == 0 else objective  # noqa: F821
        one_by_one += objective(CONFIGURATION, epoch + 1, epoch, str(stepwise))
    assert [row["epoch"] for row in at_once] == list(range(1, 11))
    assert one_by_one == at_once
    assert_same_weights(whole, stepwise)
    apart = []
    for epoch in range(10):
        step = learner.objective()
        apart += in_a_process(step, CONFIGURATION, epoch + 1, epoch, str(processes))
    assert apart == at_once
    assert_same_weights(whole, processes)


STEP = """
import json, sys, torch, toy_models
torch.set_num_threads(1)
from alhpo import ActiveLearner, load_dataset
from dataclasses import replace
torch.manual_seed(int(sys.argv[2]))  # a stranger's seed must not matter
data = load_dataset("digits")
data = replace(data, images=data.images[:120], labels=data.labels[:120],
               eval_images=data.eval_images[:60], eval_labels=data.eval_labels[:60])
learner = ActiveLearner(data, model="alhpo_toy", max_epochs=10, precision="float32",
                        hyperparameters={"batch_size": 8})
learner.label_initial(24)
first, last = int(sys.argv[2]), int(sys.argv[3])
rows = learner.objective()({"lr": 0.05, "weight_decay": 1e-3}, last, first, sys.argv[1])
print(json.dumps(rows))
"""


@pytest.mark.slow
def test_ten_epochs_at_once_equal_two_interpreters(few_digits, tmp_path):
    objective = learner_of(few_digits, hyperparameters={"batch_size": 8}).objective()
    at_once = objective(CONFIGURATION, 10, 0, str(tmp_path / "whole"))
    rows = []
    for first, last in ((0, 4), (4, 10)):
        span = [str(tmp_path / "processes"), str(first), str(last)]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", STEP, *span],
            cwd=Path(__file__).parent,  # where its network is
            capture_output=True,
            text=True,
            check=True,
        )
        rows += json.loads(done.stdout.splitlines()[-1])
    assert rows == at_once
    assert_same_weights(tmp_path / "whole", tmp_path / "processes")


def test_dropout_resumes_exactly_and_leaves_the_global_stream_alone(few_digits, tmp_path):
    import timm

    @timm.models.register_model
    def alhpo_toy_with_dropout(pretrained=False, **kwargs):
        return timm.create_model("alhpo_toy", pretrained=pretrained, drop_rate=0.5, **kwargs)

    learner = learner_of(few_digits, model="alhpo_toy_with_dropout")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    at_once = learner.objective()(CONFIGURATION, 3, 0, tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    rows = []
    for epoch in range(3):
        rows += learner.objective()(CONFIGURATION, epoch + 1, epoch, tmp_path / "b")
    assert rows == at_once
    plain = learner_of(few_digits).objective()(CONFIGURATION, 3, 0, tmp_path / "c")
    assert plain != at_once  # the dropout is there


@pytest.mark.parametrize("metric", ["balanced-accuracy", "macro-f1"])
def test_metric_can_count_all_classes_equally(few_digits, tmp_path, metric):
    scheme = "weighted:random:0.4x2"
    learner = learner_of(few_digits, validation=scheme, metric=metric)
    (row,) = learner.objective()(CONFIGURATION, 1, 0, tmp_path / "a")
    (plain,) = learner.objective(metric="accuracy")(CONFIGURATION, 1, 0, tmp_path / "b")
    assert row["metric"] == row[metric.replace("-", "_")] != row["accuracy"]
    assert {**row, "metric": row["accuracy"]} == plain  # the same model, judged otherwise
    (row,) = learner.objective()({**CONFIGURATION, "lr": 1e25}, 1, 0, tmp_path / "hot")
    assert row["metric"] == 0 and row["balanced_accuracy"] is row["macro_f1_unweighted"] is None


def test_metric_is_the_mean_over_the_splits_and_can_be_the_likelihood(few_digits, tmp_path):
    learner = learner_of(few_digits, validation="kfold:3")
    (row,) = learner.objective()(CONFIGURATION, 1, 0, tmp_path / "a")
    assert row["metric"] == row["accuracy"] == pytest.approx(np.mean(row["split_accuracy"]))
    assert len(row["split_accuracy"]) == 3
    (row,) = learner.objective(metric="likelihood")(CONFIGURATION, 1, 0, tmp_path / "b")
    assert row["metric"] == pytest.approx(math.exp(-row["nll"]))
    with pytest.raises(
        ConfigurationError, match="accuracy, balanced-accuracy, likelihood, macro-f1"
    ):
        learner.objective(metric="f1")  # type: ignore[arg-type]


def test_evaluation_split_has_no_influence(few_digits, tmp_path):
    from dataclasses import replace

    other = replace(few_digits, eval_labels=(few_digits.eval_labels + 1) % 10)
    rows = [
        learner_of(data).objective()(CONFIGURATION, 2, 0, tmp_path / str(i))
        for i, data in enumerate((few_digits, other))
    ]
    assert rows[0] == rows[1]


def test_measuring_the_test_is_recorded_at_the_end_and_changes_nothing_else(few_digits, tmp_path):
    learner = learner_of(few_digits, max_epochs=3, validation="kfold:2")
    plain = learner.objective()(CONFIGURATION, 3, 0, tmp_path / "plain")
    rows = learner.objective(measure_test=True)(CONFIGURATION, 3, 0, tmp_path / "whole")
    assert [row["epoch"] for row in rows if "test_accuracy" in row] == [3]
    last = rows[-1]
    accuracy, nll = last.pop("test_accuracy"), last.pop("test_nll")
    balanced, f1 = last.pop("test_balanced_accuracy"), last.pop("test_macro_f1")
    assert rows == plain
    assert_same_weights(tmp_path / "plain", tmp_path / "whole")
    # resumed from the checkpoint by another objective, also one that did not measure before
    learner.objective()(CONFIGURATION, 2, 0, tmp_path / "part")
    (row,) = learner.objective(measure_test=True)(CONFIGURATION, 3, 2, tmp_path / "part")
    assert (row["test_accuracy"], row["test_nll"]) == (accuracy, nll)
    learner.restore(tmp_path / "part")  # the model of the first split
    measured = [learner.evaluate()]
    tensors, start = weights(tmp_path / "part"), "1.model."
    second = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
    learner.model.load_state_dict(second)
    measured.append(learner.evaluate())
    assert accuracy == pytest.approx(np.mean([one.accuracy for one in measured]))
    assert nll == pytest.approx(np.mean([one.nll for one in measured]))
    assert balanced == pytest.approx(np.mean([one.balanced_accuracy for one in measured]))
    assert f1 == pytest.approx(np.mean([one.macro_f1 for one in measured]))


def test_what_measures_the_test_has_an_identity_of_its_own(few_digits, tmp_path):
    from dataclasses import replace

    learner = learner_of(few_digits)
    plain, on = learner.objective(), learner.objective(measure_test=True)
    assert plain.identity == learner.objective(measure_test=False).identity != on.identity
    turned = replace(few_digits, eval_labels=few_digits.eval_labels.flip(0))
    assert learner_of(turned).objective().identity == plain.identity
    assert learner_of(turned).objective(measure_test=True).identity != on.identity
    none = replace(few_digits, eval_images=few_digits.eval_images[:0], eval_labels=torch.tensor([]))
    with pytest.raises(ConfigurationError, match=r"measure_test is on.*no evaluation split"):
        learner_of(none).objective(measure_test=True)


def test_diverged_training_has_no_test_result(few_digits, tmp_path):
    learner = learner_of(few_digits, max_epochs=2)
    hot = {"lr": 1e25, "weight_decay": 0.0}
    rows = learner.objective(measure_test=True)(hot, 2, 0, tmp_path / "trial")
    assert rows[-1]["diverged"] and "test_nll" not in rows[0]
    assert (rows[-1]["test_accuracy"], rows[-1]["test_nll"]) == (None, None)


@pytest.fixture
def started(few_digits, tmp_path):
    """A learner, and a trial trained to epoch 2."""
    learner = learner_of(few_digits)
    learner.objective()(CONFIGURATION, 2, 0, tmp_path / "trial")
    return learner, tmp_path / "trial"


class TestRefusedCheckpoints:
    def refused(self, objective, folder, match, configuration=CONFIGURATION, previous=2):
        before = (folder / FILE_NAME).read_bytes() if (folder / FILE_NAME).exists() else None
        with pytest.raises(CheckpointError, match=match):
            objective(configuration, previous + 1, previous, folder)
        after = (folder / FILE_NAME).read_bytes() if (folder / FILE_NAME).exists() else None
        assert after == before

    def test_missing(self, started, tmp_path):
        self.refused(started[0].objective(), tmp_path / "nothing", "missing")

    def test_removed_while_the_models_are_in_memory(self, started):
        learner, folder = started
        objective = learner.objective()
        objective(CONFIGURATION, 3, 2, folder)
        (folder / FILE_NAME).unlink()
        self.refused(objective, folder, "missing", previous=3)

    @pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
    def test_truncated(self, started, keep):
        learner, folder = started
        content = (folder / FILE_NAME).read_bytes()
        size = int(len(content) * keep) if 0 < keep < 1 else keep
        (folder / FILE_NAME).write_bytes(content[:size])
        self.refused(learner.objective(), folder, "truncated or damaged")

    @pytest.mark.parametrize("place", [0.01, 0.3, 0.7, 0.999])
    def test_a_flipped_bit(self, started, place):
        learner, folder = started
        content = bytearray((folder / FILE_NAME).read_bytes())
        header = 8 + int.from_bytes(content[:8], "little")
        content[header + int(place * (len(content) - header))] ^= 4
        (folder / FILE_NAME).write_bytes(content)
        self.refused(learner.objective(), folder, "damaged.*checksum")

    def test_an_altered_description(self, started):
        learner, folder = started
        content = (folder / FILE_NAME).read_bytes()
        altered = content.replace(b'\\"epoch\\": 2', b'\\"epoch\\": 3')
        assert altered != content
        (folder / FILE_NAME).write_bytes(altered)
        self.refused(learner.objective(), folder, "damaged.*checksum", previous=3)

    def test_foreign(self, started):
        learner, folder = started
        save_file({"weight": torch.zeros(3)}, folder / FILE_NAME)
        self.refused(learner.objective(), folder, "not a checkpoint of this version")

    @pytest.mark.parametrize("previous", [1, 3])
    def test_other_epoch(self, started, previous):
        learner, folder = started
        self.refused(learner.objective(), folder, "of epoch 2; expected", previous=previous)

    def test_other_epoch_while_the_models_are_in_memory(self, started):
        learner, folder = started
        objective = learner.objective()
        objective(CONFIGURATION, 3, 2, folder)
        self.refused(objective, folder, "of epoch 3; expected", previous=2)

    def test_other_configuration(self, started):
        learner, folder = started
        match = r"another configuration.*lr=0.05 \(asked for: 0.01\)"
        self.refused(learner.objective(), folder, match, CONFIGURATION | {"lr": 0.01})

    def test_other_labelled_set(self, started):
        learner, folder = started
        learner.fit({}, max_epochs=1)
        learner.query(5)
        learner.max_epochs = 10
        self.refused(learner.objective(), folder, "another labeled set")

    def test_other_validation_scheme(self, started):
        learner, folder = started
        objective = learner.objective(validation="kfold:2")
        self.refused(objective, folder, "another validation scheme.*holdout:0.2")

    def test_other_length_of_training(self, started):
        learner, folder = started
        self.refused(learner.objective(20), folder, "max_epochs=10")

    def test_other_model_and_seed(self, few_digits, started):
        folder = started[1]
        self.refused(learner_of(few_digits, model="resnet14t").objective(), folder, "alhpo_toy")
        # another seed labels other images
        self.refused(learner_of(few_digits, seed=1).objective(), folder, "another")

    def test_path_is_a_file(self, started, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(CheckpointError, match="a file; expected is a folder"):
            started[0].objective()(CONFIGURATION, 1, 0, tmp_path / "file")

    def test_epoch_zero_starts_anew(self, started):
        learner, folder = started
        rows = learner.objective()(CONFIGURATION, 2, 0, folder)
        assert rows == learner.objective()(CONFIGURATION, 2, 0, folder.with_name("other"))


@pytest.mark.parametrize(
    ("configuration", "match"),
    [
        ({"lr": 0.1}, "lacks weight_decay"),
        ({}, "lacks lr, weight_decay"),
        (CONFIGURATION | {"learning_rate": 1}, "Unknown hyperparameter 'learning_rate'.*Legal"),
        (CONFIGURATION | {"lr": -1}, "'lr' is -1"),
        (CONFIGURATION | {"lr": math.nan}, "'lr' is nan"),
        (CONFIGURATION | {"optimizer": "lion"}, "'sgd', 'adam' or 'adamw'"),
        (CONFIGURATION | {"nesterov": True, "momentum": 0}, "nesterov=True needs"),
        (CONFIGURATION | {"warmup_epochs": 10}, "warmup_epochs is 10"),
    ],
)
def test_illegal_configurations_name_the_legal_ones(few_digits, tmp_path, configuration, match):
    objective = learner_of(few_digits).objective()
    with pytest.raises(ConfigurationError, match=match):
        objective(configuration, 1, 0, tmp_path / "trial")
    assert not (tmp_path / "trial").exists()


@pytest.mark.parametrize(("epoch", "previous"), [(0, 0), (1, 1), (2, 3), (11, 0), (1, -1)])
def test_illegal_epochs(few_digits, tmp_path, epoch, previous):
    with pytest.raises(ConfigurationError, match="Cannot train from epoch"):
        learner_of(few_digits).objective()(CONFIGURATION, epoch, previous, tmp_path / "trial")


@pytest.mark.parametrize(("policy", "worst"), [("worst", 0.0), ("nan", math.nan)])
def test_divergence_is_remembered_and_never_raises(few_digits, tmp_path, policy, worst):
    # warm-up starts gently, then the rate explodes
    learner = learner_of(
        few_digits, hyperparameters={"warmup_epochs": 2, "batch_size": 8, "optimizer": "sgd"}
    )
    hot = {"lr": 1e18, "weight_decay": 0.0}
    at_once = learner.objective(on_divergence=policy)(hot, 5, 0, tmp_path / "a")
    assert at_once[-1]["diverged"]
    assert at_once[-1]["metric"] == pytest.approx(worst, nan_ok=True)
    assert at_once[-1]["accuracy"] is None
    rows = []
    for epoch in range(5):
        rows += learner.objective(on_divergence=policy)(hot, epoch + 1, epoch, tmp_path / "b")
    assert repr(rows) == repr(at_once)


def test_spaces_with_conditions(few_digits, tmp_path):
    learner = learner_of(few_digits, space=hpo4dl_space())
    adam = {"lr": 1e-3, "weight_decay": 1e-3, "optimizer": "adam"}
    (row,) = learner.objective()(adam, 1, 0, tmp_path / "adam")
    assert 0 <= row["metric"] <= 1
    sgd = adam | {"optimizer": "sgd", "momentum": 0.5}
    learner.objective()(sgd, 1, 0, tmp_path / "sgd")
    with pytest.raises(ConfigurationError, match="lacks optimizer"):
        learner.objective()(CONFIGURATION, 1, 0, tmp_path / "x")


def test_space_that_cannot_be_trained_is_refused_first(few_digits):
    learner = learner_of(few_digits)
    with pytest.raises(ConfigurationError, match="Unknown hyperparameter in the space 'dropout'"):
        learner.objective(space=CS.ConfigurationSpace({"dropout": (0.0, 1.0)}))
    with pytest.raises(ConfigurationError, match=r"'momentum' is 1\.0"):
        learner.objective(space=CS.ConfigurationSpace({"momentum": (0.0, 1.0)}))
    with pytest.raises(ConfigurationError, match="warmup_epochs is 10"):
        learner.objective(space=CS.ConfigurationSpace({"warmup_epochs": (0, 10)}))
    with pytest.raises(ConfigurationError, match="needs at least 30 labelled images"):
        learner.objective(validation="kfold:30")


@pytest.mark.parametrize("validation", ["kfold:2", "kfold:4", "holdout:0.5", "holdout:0.3x2"])
def test_one_label_per_class_and_missing_classes(few_digits, tmp_path, validation):
    labels = few_digits.labels.tolist()
    learner = ActiveLearner(few_digits, model="alhpo_toy", max_epochs=2, validation=validation)
    one_each = [labels.index(c) for c in range(4)]  # six classes have no label
    learner.tell(one_each, [labels[i] for i in one_each])
    rows = learner.objective()(CONFIGURATION, 2, 0, tmp_path / "trial")
    assert all(0 <= row["metric"] <= 1 and not row["diverged"] for row in rows)


def test_two_labels_are_enough_and_one_is_refused(few_digits, tmp_path):
    learner = ActiveLearner(few_digits, model="alhpo_toy", max_epochs=1)
    with pytest.raises(ConfigurationError, match="Nothing is labelled"):
        learner.objective()
    learner.tell([0], [few_digits.labels[0]])
    with pytest.raises(ConfigurationError, match="at least 2 labelled images"):
        learner.objective()
    learner.tell([1], [few_digits.labels[1]])
    rows = learner.objective()(CONFIGURATION, 1, 0, tmp_path / "trial")
    assert rows[0]["metric"] in (0.0, 1.0)


def test_live_models_are_bounded_and_change_nothing(few_digits, tmp_path, monkeypatch):
    read, load = [], Trainer.load
    monkeypatch.setattr(Trainer, "load", lambda *given: (read.append(given[1]), load(*given)))

    def rows(folder):
        objective = learner_of(few_digits).objective()
        return [
            objective(CONFIGURATION | {"lr": trial / 100}, epoch, epoch - 1, folder / str(trial))
            for epoch in (1, 2)
            for trial in (1, 2, 3)
        ]

    kept = rows(tmp_path / "kept")
    assert not read
    monkeypatch.setattr("alhpo.training.objective.LIVE_BYTES", 0)
    assert rows(tmp_path / "dropped") == kept
    assert read == [tmp_path / "dropped" / str(trial) for trial in (1, 2, 3)]


def test_objective_can_be_pickled_to_workers(few_digits, tmp_path):
    import pickle

    objective = learner_of(few_digits).objective()
    rows = objective(CONFIGURATION, 1, 0, tmp_path / "trial")
    other = pickle.loads(pickle.dumps(objective))
    assert other.identity == objective.identity
    assert other(CONFIGURATION, 2, 1, tmp_path / "trial")[0]["epoch"] == 2
    assert rows[0]["epoch"] == 1


@pytest.mark.hpo4dl
@pytest.mark.parametrize("optimizer", ["dyhpo", "hyperband"])
def test_hpo4dls_own_tuner_drives_it(few_digits, tmp_path, optimizer):
    from hpo4dl.tuner import Tuner

    objective = learner_of(few_digits, max_epochs=3).objective()
    result = Tuner(
        objective_function=objective,
        configuration_space=objective.configuration_space,
        minimize=False,
        max_epochs=3,
        max_budget=3,
        optimizer=optimizer,
        seed=0,
        num_configurations=20,
        output_path=tmp_path / "out",
        storage_path=tmp_path / "storage",
    ).run()
    assert 0 <= result["metric"] <= 1
    assert set(result["configuration"]) == {"lr", "weight_decay"}
    best = next((tmp_path / "out").glob("experiment_*/best_trial"))
    assert (best / FILE_NAME).is_file()


def test_no_unsafe_write_is_visible(few_digits, tmp_path):
    """A reader never sees a half-written checkpoint: the file is replaced, not rewritten."""
    objective = learner_of(few_digits).objective()
    objective(CONFIGURATION, 1, 0, tmp_path / "trial")
    first = (tmp_path / "trial" / FILE_NAME).stat().st_ino
    held = (tmp_path / "trial" / FILE_NAME).open("rb")
    objective(CONFIGURATION, 2, 1, tmp_path / "trial")
    assert (tmp_path / "trial" / FILE_NAME).stat().st_ino != first
    assert os.fstat(held.fileno()).st_ino == first
    held.close()
    assert [path.name for path in (tmp_path / "trial").iterdir()] == [FILE_NAME]


def test_spaces_are_independent_objects():
    assert paper_space() is not paper_space()
