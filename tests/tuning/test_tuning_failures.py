"""What is no trial's fault never changes the result of a search, and what is one stops it."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from tuning_toys import ToyObjective, learning_curve, read_rows, run_in_fork, toy_space

from alhpo.base.errors import CheckpointError, DivergedError, EarlierResultWarning, TunerError
from alhpo.runs.search import run_search
from alhpo.runs.setting_groups import SearchSettings
from alhpo.tuning import Tuner
from alhpo.tuning.failures import is_out_of_memory, outside_cause


class Checked(ToyObjective):
    """Says of a checkpoint that cannot be read that it is damaged; does something at some calls.

    ``events`` maps the number of a call, from 1, to an exception that it raises after its work.
    """

    def __init__(self, curve=learning_curve, replaces_files=False, events=None):
        super().__init__(curve, replaces_files)
        self.events = events or {}

    def __call__(self, configuration, epoch, previous_epoch, checkpoint_path):
        if previous_epoch:
            try:
                state = json.loads((Path(checkpoint_path) / "one.json").read_text())
                epoch_reached = state["epoch"]
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{checkpoint_path} is damaged") from error
            if epoch_reached != previous_epoch:
                raise CheckpointError(f"{checkpoint_path} is of another epoch")
        rows = super().__call__(configuration, epoch, previous_epoch, checkpoint_path)
        if len(self.calls) in self.events:
            raise self.events[len(self.calls)]
        return rows


def tuner(objective, output, optimizer="random", **settings):
    settings = {"max_epochs": 4, "max_budget": 14, "num_configurations": 12} | settings
    settings = {"seed": 5, "progress": False, "resume": "quiet", "keep_mib": 0} | settings
    sizes = [settings.pop(name) for name in ("max_epochs", "max_budget")]
    return Tuner(objective, toy_space(), *sizes, output, optimizer, **settings)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def assert_same(search, undisturbed):
    assert read_rows(search.experiment_path).equals(read_rows(undisturbed.experiment_path))
    best, expected = (one.experiment_path / "best_trial" for one in (search, undisturbed))
    assert contents(best) == contents(expected)
    assert not (search.experiment_path / "trials").exists()
    assert search.stop_reason == undisturbed.stop_reason


def entries(search):
    return [json.loads(line) for line in (search.experiment_path / "journal.jsonl").open()]


def damage(root, how, names="trial_*"):
    """Do to all checkpoints under the root what a power cut may do; copies from before the epoch
    that was interrupted are gone."""
    for copy in root.glob("*.before_*"):
        shutil.rmtree(copy)
    found = list(root.glob(names))
    assert found
    for path in found:
        if how == "gone":
            shutil.rmtree(path)
            continue
        for file in [one for one in path.rglob("*") if one.is_file()]:
            content = file.read_bytes()
            file.unlink()
            if how != "no files":
                file.write_bytes(b"" if how == "empty" else b"\0" * len(content))


@pytest.fixture(params=["random", "hyperband"])
def optimizer(request):
    return request.param


@pytest.mark.parametrize("replaces_files", [False, True])
@pytest.mark.parametrize("how", ["gone", "no files", "empty", "zeroed"])
def test_a_lost_checkpoint_is_trained_again(tmp_path, optimizer, how, replaces_files, caplog):
    undisturbed = tuner(Checked(), tmp_path / "undisturbed", optimizer)
    undisturbed.run()
    rows, at = [], {"random": 11, "hyperband": 5}[optimizer]  # in the midst of a trial
    search = tuner(
        Checked(replaces_files=replaces_files, events={at: KeyboardInterrupt()}),
        tmp_path / "lost",
        optimizer,
        callback=rows.append,
    )
    with pytest.raises(KeyboardInterrupt):
        search.run()
    damage(search.experiment_path / "trials", how)
    objective = Checked(replaces_files=replaces_files)
    with caplog.at_level(logging.WARNING, "alhpo.tuning"):
        tuner(objective, tmp_path / "lost", optimizer, callback=rows.append).run()
    assert_same(search, undisturbed)
    assert "trained again from epoch 0" in caplog.text
    assert len(objective.calls) > 14 - (at - 1)
    assert len(rows) == 14
    epochs = [(e["configuration_id"], e["epoch"]) for e in entries(search) if e["kind"] == "epoch"]
    assert len(set(epochs)) == len(epochs) == 14


@pytest.mark.parametrize("at", range(1, 6))
def test_stopped_at_any_call_of_a_training_again(tmp_path, at):
    undisturbed = tuner(Checked(), tmp_path / "undisturbed", max_budget=6)
    undisturbed.run()
    with pytest.raises(KeyboardInterrupt):
        tuner(Checked(events={4: KeyboardInterrupt()}), tmp_path / "lost", max_budget=6).run()
    search = tuner(Checked(), tmp_path / "lost", max_budget=6)
    damage(search.experiment_path / "trials", "gone")
    for _ in range(2):
        again = Checked(events={at: KeyboardInterrupt()})
        with contextlib.suppress(KeyboardInterrupt):
            tuner(again, tmp_path / "lost", max_budget=6).run()
        assert again.calls[0] == ("trial_0", 1) or at > 3
    search.run()
    assert_same(search, undisturbed)


@pytest.mark.parametrize("replaces_files", [False, True])
def test_killed_at_any_place_of_a_training_again(tmp_path, replaces_files):
    """An objective that does not look at what it goes on from is given whole checkpoints only."""

    def made(output, **events):
        objective = ToyObjective(replaces_files=replaces_files)
        return tuner(objective, output, max_budget=4, max_epochs=4, **events)

    undisturbed = made(tmp_path / "undisturbed")
    undisturbed.run()
    for at in range(1, 100):
        output = tmp_path / f"{at}"
        interrupted = Checked(replaces_files=replaces_files, events={4: KeyboardInterrupt()})
        with pytest.raises(KeyboardInterrupt):
            tuner(interrupted, output, max_budget=4, max_epochs=4).run()
        search = made(output)
        damage(search.experiment_path / "trials", "gone")

        def killed(at=at, search=search):
            left = at
            rename, call = Path.rename, ToyObjective.__call__

            def count():
                nonlocal left
                left -= 1
                if left == 0:
                    os._exit(9)

            def counted(self, target):
                count()
                return rename(self, target)

            def called(self, *arguments):
                result = call(self, *arguments)
                count()
                return result

            Path.rename, ToyObjective.__call__ = counted, called
            search.run()

        if run_in_fork(killed) == 0:
            assert at > 8
            break
        made(output).run()
        assert_same(search, undisturbed)


def test_a_training_again_with_other_metrics_stops_the_search(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tuner(Checked(events={3: KeyboardInterrupt()}), tmp_path).run()
    search = tuner(Checked(), tmp_path)
    before = search.results[1]["metric"]
    damage(search.experiment_path / "trials", "gone")

    def other(configuration, epoch):
        return learning_curve(configuration, epoch) + 0.25 * (epoch == 2)

    for _ in range(2):
        with pytest.raises(TunerError) as stopped:
            tuner(Checked(other), tmp_path).run()
        message = str(stopped.value)
        for part in ("configuration 0", "epoch 2", repr(before), repr(before + 0.25)):
            assert part in message
    assert search.epochs_spent == 2
    tuner(Checked(), tmp_path).run()  # with what it was before
    assert search.epochs_spent == 14


def test_a_checkpoint_that_is_damaged_for_ever_stops_the_search(tmp_path):
    class Refusing(ToyObjective):
        def __call__(self, configuration, epoch, previous_epoch, checkpoint_path):
            if previous_epoch == 2:
                raise CheckpointError("nothing but zeros")
            return super().__call__(configuration, epoch, previous_epoch, checkpoint_path)

    objective = Refusing()
    search = tuner(objective, tmp_path, max_failures=10)
    with pytest.raises(TunerError, match="nothing but zeros"):
        search.run()
    assert len(objective.calls) == 4
    assert search.epochs_spent == 2


def peaks_at_two(configuration, epoch):
    return configuration["x"] - (epoch - 2) ** 2


@pytest.mark.parametrize("replaces_files", [False, True])
@pytest.mark.parametrize("how", ["gone", "empty", "zeroed"])
@pytest.mark.parametrize("optimizer", ["random", "asha"])
def test_best_trial_is_never_a_damaged_checkpoint(tmp_path, optimizer, how, replaces_files):
    made = {"curve": peaks_at_two, "replaces_files": replaces_files}
    undisturbed = tuner(Checked(**made), tmp_path / "undisturbed", optimizer)
    undisturbed.run()
    search = tuner(Checked(**made, events={14: KeyboardInterrupt()}), tmp_path / "lost", optimizer)
    with pytest.raises(KeyboardInterrupt):
        search.run()
    damage(search.experiment_path / "trials", how, "best_*")
    tuner(Checked(**made), tmp_path / "lost", optimizer).run()
    assert_same(search, undisturbed)


def test_a_best_trial_that_cannot_be_trained_again_is_missing_and_it_is_said(tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        tuner(Checked(peaks_at_two, events={13: KeyboardInterrupt()}), tmp_path).run()

    noise = iter(range(1, 100))
    search = tuner(Checked(lambda *_: -10.0 - next(noise)), tmp_path)
    best = max(row["metric"] for row in search.results)
    damage(search.experiment_path / "trials", "zeroed", "best_*")
    with caplog.at_level(logging.WARNING, "alhpo.tuning"):
        assert search.run()["metric"] == best
    assert "There is no best_trial" in caplog.text
    assert not (search.experiment_path / "best_trial").exists()


OUTSIDE = [
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
    OSError(errno.EIO, "Input/output error"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
]


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("CUDA error: out of memory", True),  # of the driver, as for a context
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: device-side assert triggered", False),
    ],
)
def test_cuda_tells_a_lack_of_memory_in_several_ways(text, memory):
    error = RuntimeError(text)
    assert is_out_of_memory(error) == memory
    assert ("not enough memory" in str(outside_cause(error))) == memory


@pytest.mark.parametrize("error", OUTSIDE, ids=lambda error: str(error)[:30] or "MemoryError")
@pytest.mark.parametrize("max_failures", [0, 9])
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_no_fault_of_a_trial_changes_no_result(tmp_path, error, max_failures, wrapped):
    undisturbed = tuner(Checked(), tmp_path / "undisturbed", max_budget=6)
    undisturbed.run()
    raised = error
    if wrapped:
        raised = ValueError("cannot save")
        raised.__cause__ = error
    for at in (1, 3):
        settings = {"max_budget": 6, "max_failures": max_failures}
        search = tuner(Checked(events={at: raised}), tmp_path / f"{at}", **settings)
        with pytest.raises(TunerError, match="then run the same search again") as stopped:
            search.run()
        assert stopped.value.__cause__ is raised
        assert search.epochs_spent == at - 1
        tuner(Checked(), tmp_path / f"{at}", max_budget=6).run()
        assert_same(search, undisturbed)


@pytest.mark.parametrize("at", range(1, 12))
def test_a_disk_that_is_full_for_the_search_itself(tmp_path, at, monkeypatch):
    undisturbed = tuner(Checked(), tmp_path / "undisturbed", max_budget=4)
    undisturbed.run()
    sync, left = os.fsync, at

    def full(descriptor):
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return sync(descriptor)

    search = tuner(Checked(), tmp_path / "full", max_budget=4)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        try:
            search.run()
        except TunerError as error:
            assert "Make room; then run the same search again" in str(error)
        else:
            assert left > 0
    search.run()
    assert read_rows(search.experiment_path).equals(read_rows(undisturbed.experiment_path))


def test_an_exception_stops_the_search_which_goes_on_when_it_is_fixed(tmp_path, optimizer):
    undisturbed = tuner(Checked(), tmp_path / "undisturbed", optimizer)
    undisturbed.run()
    for at in (1, 6, 14):
        error = AttributeError("no 'fcc'")
        search = tuner(Checked(events={at: error}), tmp_path / f"{at}", optimizer)
        with pytest.raises(TunerError) as stopped:
            search.run()
        assert stopped.value.__cause__ is error
        message = str(stopped.value)
        for part in ("AttributeError: no 'fcc'", __file__, "run the same search", "max_failures=1"):
            assert part in message
        assert search.epochs_spent == at - 1
        assert search.stop_reason is None
        stop = entries(search)[-1]
        assert (stop["kind"], stop["error"]) == ("stop", "AttributeError: no 'fcc'")
        assert "Traceback" in stop["traceback"]
        tuner(Checked(), tmp_path / f"{at}", optimizer).run()
        assert_same(search, undisturbed)


def test_a_user_can_remove_a_checkpoint_that_breaks_the_objective(tmp_path):
    undisturbed = tuner(ToyObjective(), tmp_path / "undisturbed", max_budget=4)
    undisturbed.run()
    with pytest.raises(KeyboardInterrupt):
        tuner(Checked(events={3: KeyboardInterrupt()}), tmp_path / "lost", max_budget=4).run()
    search = tuner(ToyObjective(), tmp_path / "lost", max_budget=4)
    damage(search.experiment_path / "trials", "zeroed")
    trial = search.experiment_path / "trials" / "trial_0"
    with pytest.raises(TunerError, match=f"damaged, remove {trial}: it is then trained again"):
        search.run()
    shutil.rmtree(trial)
    search.run()
    assert_same(search, undisturbed)


def test_more_failures_than_are_allowed_stop_the_search(tmp_path):
    events = {2: ValueError("once"), 3: ValueError("twice"), 4: ValueError("thrice")}
    search = tuner(Checked(events=events), tmp_path, max_failures=2)
    with pytest.raises(TunerError, match=r"thrice.*max_failures=3"):
        search.run()
    assert [row["metric"] != row["metric"] for row in search.results] == [False, True, True]
    failed = [row["configuration_id"] for row in search.results[1:]]
    with pytest.raises(TunerError, match=r"four.*max_failures=3"):  # those of before count
        tuner(Checked(events={1: ValueError("four")}), tmp_path, max_failures=2).run()
    tuner(Checked(), tmp_path).run()
    ids = [row["configuration_id"] for row in search.results]
    assert len(ids) == 14
    assert all(ids.count(number) == 1 + (number == 0) for number in failed)


@pytest.mark.parametrize("max_failures", [2, 99])
def test_a_search_in_which_all_failed_starts_anew_when_the_cause_is_gone(
    tmp_path, optimizer, max_failures
):
    undisturbed = tuner(Checked(), tmp_path / "undisturbed", optimizer)
    undisturbed.run()

    def away(configuration, epoch):
        raise FileNotFoundError("/data/images")

    search = tuner(ToyObjective(away), tmp_path / "out", optimizer, max_failures=max_failures)
    for _ in range(2):
        with pytest.raises(TunerError, match="/data/images"):
            search.run()
        assert search.epochs_spent == min(max_failures, 12)
    with pytest.warns(EarlierResultWarning, match="had failed; it starts anew"):
        tuner(Checked(), tmp_path / "out", optimizer, resume=True).run()
    assert_same(search, undisturbed)


def test_divergence_is_an_outcome_and_no_failure(tmp_path):
    def diverging(configuration, epoch):
        if configuration["kind"] == "a" and epoch == 2:
            raise DivergedError("loss is inf")
        return learning_curve(configuration, epoch)

    raising = tuner(ToyObjective(diverging), tmp_path / "raised")
    raising.run()

    def returned(configuration, epoch):
        late = configuration["kind"] == "a" and epoch == 2
        return math.nan if late else learning_curve(configuration, epoch)

    returning = tuner(ToyObjective(returned), tmp_path / "returned")
    returning.run()
    one, other = (read_rows(search.experiment_path) for search in (raising, returning))
    columns = ["configuration_id", "epoch", "metric", "best_metric"]
    assert one["metric"].isna().any()
    assert one[columns].equals(other[columns])


# Earlier results.


def factor():
    return 1.0


def scaled(configuration, epoch, previous_epoch, checkpoint_path):
    return {"epoch": epoch, "metric": factor() * configuration["x"]}


def test_an_earlier_result_is_told_each_time_from_the_same_line(tmp_path, monkeypatch):
    first = tuner(scaled, tmp_path).run()
    monkeypatch.setitem(globals(), "factor", lambda: 2.0)  # what scaled calls has changed
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            assert tuner(scaled, tmp_path, resume=True).run() == first
    assert [one.category for one in told] == [EarlierResultWarning] * 3
    assert {one.filename for one in told} == {__file__}
    assert str(tmp_path) in str(told[0].message) and "resume=False" in str(told[0].message)
    assert tuner(scaled, tmp_path, resume=False).run()["metric"] == 2 * first["metric"]


def test_a_search_that_goes_on_tells_after_how_many_epochs(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyboardInterrupt):
            tuner(Checked(events={6: KeyboardInterrupt()}), tmp_path, resume=True).run()
        with pytest.raises(KeyboardInterrupt):
            tuner(Checked(events={1: KeyboardInterrupt()}), tmp_path).run()  # quietly
    with pytest.warns(EarlierResultWarning, match="goes on after 5 epochs"):
        tuner(Checked(), tmp_path, resume=True).run()


def test_the_searches_of_a_run_resume_without_a_word(tmp_path):
    objective = Checked()
    objective.configuration_space, objective.max_epochs = toy_space(), 3
    objective.let_checkpoints_lag = lambda: None
    objective.in_processes = False
    settings = SearchSettings(optimizer="random", num_configurations=5)
    arguments = {"budget": 6, "seed": 0, "storage": None, "show": lambda status: None}
    with warnings.catch_warnings():
        warnings.simplefilter("error", EarlierResultWarning)
        results = [run_search(objective, settings, tmp_path, **arguments)[1] for _ in range(2)]
    assert results[0] == results[1]
    assert len(objective.calls) == 6


def test_an_identity_of_ones_own_replaces_the_derived_one(tmp_path):
    def other(*arguments):
        return scaled(*arguments)

    def paths(**settings):
        made = [tuner(one, tmp_path, **settings).experiment_path for one in (scaled, other)]
        return [path.name for path in made]

    assert len(set(paths())) == 2
    one = paths(identity={"data": "v1", "lines": [1, 2]})
    assert len({*one, *paths(identity="v1"), *paths(identity={"data": "v2"}), *paths()}) == 5
    assert one[0] == one[1]
    assert tuner(Checked(), tmp_path, identity="v1").experiment_path.name == paths(identity="v1")[0]
