"""active-iNAS from end to end: acquisition schedules, an architecture that grows, its report."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from alhpo import RunConfig, load_dataset, run_experiment
from alhpo.base.acquisition import canonical_acquisition, sizes_of_cycles
from alhpo.base.errors import ConfigurationError
from alhpo.cli import main
from alhpo.data.batches import DeviceImages, InputFormat
from alhpo.reports import load_findings
from alhpo.runs.records import read_run
from alhpo.studies import expand, load_study
from alhpo.tuning.optimizers.inas import candidates

# ---------------------------------------------------------------------------- acquisition schedules


def test_the_papers_schedule_has_13_trainings():
    sizes = sizes_of_cycles(2000, "2000,5000@10000", 50_000)
    assert sizes == [*range(2000, 10_000, 2000), *range(10_000, 50_001, 5000)]
    assert len(sizes) == 13


@given(st.integers(2, 60), st.integers(1, 40), st.integers(0, 200))
def test_a_number_is_a_schedule_of_one_step(initial, size, more):
    budget = initial + more
    assert sizes_of_cycles(initial, size, budget) == [*range(initial, budget, size), budget]
    assert sizes_of_cycles(initial, f"{size},{size}@7", budget) == sizes_of_cycles(
        initial, size, budget
    )


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=4),
    st.lists(st.integers(1, 99), min_size=3, max_size=3, unique=True),
)
def test_each_query_has_the_size_of_the_step_that_holds(sizes, starts):
    starts = sorted(starts)[: len(sizes) - 1]
    text = ",".join([str(sizes[0]), *map("{}@{}".format, sizes[1:], starts)])
    found = sizes_of_cycles(5, text, 120)
    assert (found[0], found[-1]) == (5, 120)
    for before, after in itertools.pairwise(found[:-1]):
        assert after - before == sizes[sum(start <= before for start in starts)]


@pytest.mark.parametrize(
    "value", [0, -3, "", "x", "10,20", "10@5", "10,0@20", "10,20@30,40@30", "10,5@9,6@4", 2.5, True]
)
def test_other_forms_are_refused(value):
    with pytest.raises(
        ConfigurationError, match=r"acquisition_size.*(such as 2000,5000@10000|true)"
    ):
        RunConfig.create({"acquisition_size": value})


def test_a_schedule_is_a_setting_like_others(tmp_path):
    assert RunConfig.create({"acquisition_size": "30"}) == RunConfig.create(
        {"acquisition_size": 30}
    )
    assert canonical_acquisition(" 5, 10@20 ") == "5,10@20"
    names = {RunConfig.create({"acquisition_size": one}).name for one in (5, "5,10@20", "5,10@30")}
    assert len(names) == 3
    flags = ["--acquisition-size", "5,10@30", "--strategy", "random", "--model", "test_resnet"]
    sizes = ["--initial-size", "20", "--budget", "45", "--max-epochs", "1", "--pool-size", "80"]
    arguments = ["run", *flags, *sizes, "--no-validate-fixed", "--output-dir", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    (run,) = load_findings(tmp_path).cells
    assert [record.n_labeled for record in read_run(run.cell.path)] == [20, 25, 30, 40, 45]
    assert run.cell.config.acquisition_size == "5,10@30"


# ------------------------------------------------------------------------------ epochs of the paper


@pytest.mark.parametrize("labels", [1, 100, 2000, 49_999, 50_000, 60_000])
def test_an_epoch_has_390_steps_whatever_the_number_of_labels(labels):
    images = torch.zeros(labels, 1, 1, 1, dtype=torch.uint8)
    rows = DeviceImages(
        images, torch.zeros(labels).long(), InputFormat((0.0,), (1.0,)), torch.device("cpu")
    )
    order = rows.order(128, torch.Generator().manual_seed(0), 50_000)
    assert order.shape == (390, 128)
    counts = torch.bincount(order.flatten(), minlength=labels)
    mean = 390 * 128 / labels
    assert {*counts.tolist()} <= {math.floor(mean), math.ceil(mean)}


# ------------------------------------------------------------------------------ from end to end

RUN = {
    "dataset": "digits",
    "recipe": "architecture",
    "space": "architecture-2",
    "optimizer": "inas:1",
    "hpo": "per-cycle",
    "max_budget": 3,
    "validation": "random:0.2",
    "strategy": "least-confidence",
    "initial_size": 20,
    "acquisition_size": "10,20@30",
    "budget": 50,
    "max_epochs": 2,
    "validate_fixed": False,
    "hyperparameters": {"batch_size": 10, "augmentation": "crop-rotate"},
    "precision": "float32",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", pool_size=120, eval_size=60)


def architectures(records):
    return [(one.configuration["blocks"], one.configuration["stacks"]) for one in records]


def test_an_architecture_grows_over_the_cycles(tmp_path, digits):
    config = RunConfig.create(RUN, {"output_dir": str(tmp_path / "whole")})
    records = run_experiment(config, dataset=digits).records
    assert [record.n_labeled for record in records] == [20, 30, 50]
    before = (1, 1)
    for record, found in zip(records, architectures(records), strict=True):
        assert found in candidates(*before, 12, 2)
        assert record.epochs == {"hpo": len(candidates(*before, 12, 2)), "fit": 2}
        assert record.tuned and record.search is None
        before = found
    again = RunConfig.create(RUN, {"output_dir": str(tmp_path / "again")})
    same = run_experiment(again, dataset=digits).records
    assert [replace(r, seconds={}) for r in same] == [replace(r, seconds={}) for r in records]
    findings = load_findings(tmp_path / "whole")
    shown = set(findings.hyperparameters["hyperparameter"])
    assert shown == {"blocks", "stacks"}


def test_other_optimizers_search_architectures_too(tmp_path, digits):
    search = {"optimizer": "dyhpo", "max_budget": 5, "num_configurations": 6, "budget": 30}
    config = RunConfig.create(RUN, search, {"output_dir": str(tmp_path)})
    records = run_experiment(config, dataset=digits).records
    assert len(records) == 2 and all(record.search for record in records)  # compared with (1, 1)


def test_a_space_beyond_the_images_is_refused_before_the_first_label(tmp_path, digits):
    for mode in ("per-cycle", "final"):
        changes = {"space": "architecture", "hpo": mode, "output_dir": str(tmp_path)}
        with pytest.raises(ConfigurationError, match="stacks is 5, but images of 8 x 8"):
            run_experiment(RunConfig.create(RUN, changes), dataset=digits)
        assert not list(tmp_path.rglob("cycles.jsonl"))


def test_the_shipped_study_is_the_papers():
    cells = expand(load_study("active-inas"))
    assert len(cells) == 27
    for cell in cells:
        config = cell.config
        assert len(config.sizes) == 13
        assert config.hyperparameter_class.create(config.hyperparameters).lr_steps == "epoch"
        assert (config.max_epochs, config.validation) == (200, "random:0.2")
        searching = config.hpo == "per-cycle"
        assert searching == (cell.coordinates["architecture"] == "active-iNAS")
        if not searching:
            fixed = config.hyperparameters["blocks"], config.hyperparameters["stacks"]
            assert str(fixed) in cell.coordinates["architecture"]
