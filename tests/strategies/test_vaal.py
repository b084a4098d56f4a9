"""VAAL as a strategy: the lowest scores, in real runs, killed and continued."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alhpo import ActiveLearner, run_experiment
from alhpo.base.types import PoolOutputs
from alhpo.outputs import adversarial
from alhpo.strategies import get_strategy, run_strategy, strategy_needs
from alhpo.testing import check_strategy

CONFIG = {
    "dataset": "digits",
    "model": "resnet10t",
    "strategy": "vaal",
    "vaal_epochs": 3,
    "initial_size": 20,
    "acquisition_size": 10,
    "budget": 40,
    "max_epochs": 1,
    "validate_fixed": False,
}


@given(st.lists(st.integers(0, 8), min_size=1, max_size=12), st.data())
def test_the_least_labelled_looking_first_and_ties_by_index(eighths, data):
    n = data.draw(st.integers(1, len(eighths)))
    indices = torch.arange(len(eighths)) * 3 + 2
    pool = PoolOutputs(indices, labeled_scores=torch.tensor(eighths) / 8)
    query = run_strategy("vaal", pool, n, np.random.default_rng(0))
    expected = sorted(range(len(eighths)), key=lambda i: (eighths[i], i))[:n]
    assert query.indices == tuple(int(indices[i]) for i in expected)
    assert query.scores == tuple(1 - eighths[i] / 8 for i in expected)


def test_it_conforms():
    check_strategy("vaal")
    assert strategy_needs(get_strategy("vaal")) == {"labeled_scores"}


def test_it_needs_no_model_and_finds_what_is_not_labelled(digits):
    """With labels of digits 0 to 4 only, it asks for the others."""
    data = replace(digits, images=digits.images[:1000], labels=digits.labels[:1000])
    learner = ActiveLearner(data, "resnet10t", "vaal", vaal_epochs=6)
    few = (data.labels < 5).nonzero().flatten()[:200]
    learner.tell(few.tolist(), data.labels[few].tolist())
    asked = data.labels[list(learner.ask(50).indices)]
    assert (asked >= 5).float().mean() > 0.75  # 0.63 by chance


def queries(path):
    entries = map(json.loads, (path / "labels.jsonl").read_text().splitlines())
    return [entry["images"] for entry in entries if entry["event"] == "ask"]


class Killed(BaseException):
    pass


def test_a_run_killed_while_it_trains_goes_on_exactly(few_digits, tmp_path, monkeypatch):
    whole = run_experiment(CONFIG | {"output_dir": str(tmp_path / "whole")}, dataset=few_digits)
    assert [r.n_labeled for r in whole.records] == [20, 30, 40]
    assert not (whole.path / "query").exists()

    monkeypatch.setattr("alhpo.outputs.adversarial.CHECKPOINT_SECONDS", 0.0)
    config = CONFIG | {"output_dir": str(tmp_path / "killed")}
    written, write = [], adversarial.write_checkpoint

    def killing(folder, tensors, description):
        write(folder, tensors, description)
        written.append((folder.relative_to(tmp_path / "killed").parts[1:], description["epoch"]))
        if len(written) in (2, 6):
            raise Killed

    monkeypatch.setattr("alhpo.outputs.adversarial.write_checkpoint", killing)
    for _ in range(2):
        with pytest.raises(Killed):
            run_experiment(config, dataset=few_digits)
    result = run_experiment(config, dataset=few_digits)
    assert written == [
        (("query", cycle), epoch) for cycle in ("cycle_000", "cycle_001") for epoch in (1, 2, 3)
    ]
    assert not (result.path / "query").exists()
    assert queries(result.path) == queries(whole.path)
    assert [r.test for r in result.records] == [r.test for r in whole.records]


def test_the_query_subset_is_what_it_trains_on(few_digits, monkeypatch):
    seen = []
    task = adversarial.Discrimination

    def spy(**arguments):
        seen.append((len(arguments["labeled"]), len(arguments["unlabeled"])))
        return task(**arguments)

    monkeypatch.setattr("alhpo.outputs.pool_outputs.Discrimination", spy)
    learner = ActiveLearner(few_digits, "resnet10t", "vaal", vaal_epochs=1, query_subset=30)
    learner.label_initial(20)
    assert len(learner.query(5)) == 5
    assert seen == [(20, 30)]
