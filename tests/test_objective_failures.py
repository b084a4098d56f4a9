"""Memory that is short and checkpoints that are damaged never change what the objective gives."""

from __future__ import annotations

import pytest

import alhpo.training.objective
from alhpo.learner import ActiveLearner
from alhpo.training.checkpoints import FILE_NAME
from alhpo.tuning import Tuner

SMALL = {"lr": 0.05, "weight_decay": 1e-3}
NO_MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
]


@pytest.fixture
def learner(few_digits):
    made = ActiveLearner(few_digits, model="alhpo_toy", max_epochs=3, precision="float32")
    made.label_initial(16)
    return made


@pytest.fixture
def short_of_memory(monkeypatch):
    """Give the number of calls after which memory is short once, or always; returns the calls."""

    def install(error, calls, *, always=False):
        score, seen = alhpo.training.objective.score_images, []

        def scored(*arguments):
            seen.append(arguments)
            if len(seen) == calls or (always and len(seen) > calls):
                raise error
            return score(*arguments)

        monkeypatch.setattr(alhpo.training.objective, "score_images", scored)
        return seen

    return install


@pytest.mark.parametrize("error", NO_MEMORY, ids=["MemoryError", "RuntimeError"])
def test_models_in_memory_make_way_and_the_epoch_is_trained_once_more(
    learner, tmp_path, short_of_memory, error
):
    expected = learner.objective()(SMALL, 2, 0, tmp_path / "undisturbed")
    objective = learner.objective()
    objective(SMALL | {"lr": 0.01}, 1, 0, tmp_path / "other")
    rows = objective(SMALL, 1, 0, tmp_path / "trial")
    short_of_memory(error, 1)
    rows += objective(SMALL, 2, 1, tmp_path / "trial")
    assert rows == expected
    ours, theirs = (tmp_path / name / FILE_NAME for name in ("trial", "undisturbed"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_memory_that_stays_short_is_an_error_and_the_checkpoint_is_left(
    learner, tmp_path, short_of_memory
):
    objective = learner.objective()
    objective(SMALL | {"lr": 0.01}, 1, 0, tmp_path / "other")
    objective(SMALL, 1, 0, tmp_path / "trial")
    before = (tmp_path / "trial" / FILE_NAME).read_bytes()
    seen = short_of_memory(MemoryError(), 0, always=True)
    for tries in (2, 3):  # once more with the other's models gone; then there is nothing to free
        with pytest.raises(MemoryError):
            objective(SMALL, 2, 1, tmp_path / "trial")
        assert len(seen) == tries
    assert (tmp_path / "trial" / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize("how", ["truncated", "zeroed", "missing"])
def test_a_search_trains_a_damaged_trial_again_to_the_same_bits(learner, tmp_path, how):
    def tuner(output, callback=None):
        objective = learner.objective()
        return Tuner(
            objective,
            objective.configuration_space,
            3,
            4,
            tmp_path / output,
            "random",
            seed=0,
            progress=False,
            resume="quiet",
            callback=callback,
        )

    class Killed(BaseException):
        pass

    def kill(row):
        if row["epoch"] == 2:
            raise Killed

    undisturbed, search = tuner("undisturbed"), tuner("damaged", kill)
    undisturbed.run()
    with pytest.raises(Killed):
        search.run()
    for file in search.experiment_path.rglob(FILE_NAME):  # the best one's too
        content = file.read_bytes()
        file.unlink()
        if how != "missing":
            file.write_bytes(content[: len(content) // 2] if how == "truncated" else bytes(9000))
    tuner("damaged").run()
    told = [
        [(row["configuration_id"], row["epoch"], row["metric"], row["nll"]) for row in one.results]
        for one in (search, undisturbed)
    ]
    assert told[0] == told[1]
    assert len(told[0]) == 4
    ours, theirs = (one.experiment_path / "best_trial" for one in (search, undisturbed))
    assert (ours / FILE_NAME).read_bytes() == (theirs / FILE_NAME).read_bytes()
