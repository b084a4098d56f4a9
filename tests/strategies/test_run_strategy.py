"""What is refused before a strategy runs, and what of its result."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alhpo.base.errors import ConfigurationError, DivergedError
from alhpo.base.protocols import POOL_OUTPUTS
from alhpo.base.types import PoolOutputs, Query
from alhpo.outputs.dropout_passes import TensorPasses
from alhpo.strategies import run_strategy

POOL = PoolOutputs(
    indices=torch.tensor([3, 5, 8, 9]),
    logits=torch.randn(4, 3),
    features=torch.randn(4, 2),
    labeled_features=torch.randn(6, 2),
    labels=torch.tensor([0, 1, 2, 0, 1, 2]),
)


def run(strategy, pool=POOL, n=2):
    return run_strategy(strategy, pool, n, np.random.default_rng(0))


def returning(*args):
    def oddity(pool, n, generator):
        return Query(*args)

    oddity.needs = frozenset()
    return oddity


@pytest.mark.parametrize("n", [0, -1, 5])
def test_n_must_be_between_one_and_the_number_of_candidates(n):
    with pytest.raises(ConfigurationError, match=f"choose {n} of 4 candidates. Legal: 1 to 4"):
        run("random", n=n)


@pytest.mark.parametrize("n", [2.0, True, None, "2"])
def test_n_must_be_an_integer(n):
    with pytest.raises(ConfigurationError, match="integer"):
        run("random", n=n)


def test_numpy_integers_are_integers():
    assert len(run("random", n=np.int64(3))) == 3


def test_an_empty_pool_is_refused():
    with pytest.raises(ConfigurationError, match="no candidates"):
        run("random", PoolOutputs(torch.tensor([], dtype=torch.int64)), 1)


@pytest.mark.parametrize(
    "indices", [torch.tensor([3, 3]), torch.tensor([4, 3]), torch.ones(2), torch.ones(2, 1).long()]
)
def test_indices_must_be_ascending_integers(indices):
    with pytest.raises(ConfigurationError, match="Pool indices are"):
        run("random", PoolOutputs(indices), 1)


def test_a_seed_is_no_generator():
    with pytest.raises(ConfigurationError, match="Generator"):
        run_strategy("random", POOL, 1, 0)


@pytest.mark.parametrize(
    "strategy, field",
    [
        ("entropy", "logits"),
        ("coreset", "features"),
        ("coreset", "labeled_features"),
        ("badge", "logits"),
        ("badge", "features"),
    ],
)
class TestOutputs:
    def test_missing(self, strategy, field):
        with pytest.raises(ConfigurationError, match=f"'{strategy}' needs {field} of the pool"):
            run(strategy, replace(POOL, **{field: None}))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_not_finite(self, strategy, field, value):
        output = getattr(POOL, field).clone()
        output[2:, 1] = value
        with pytest.raises(DivergedError, match=rf"{field} given.*{strategy}.*first in row 2"):
            run(strategy, replace(POOL, **{field: output}))

    @pytest.mark.parametrize("change", [lambda x: x[:, 0], lambda x: x[:, :0], lambda x: x.int()])
    def test_shape_and_type(self, strategy, field, change):
        with pytest.raises(ConfigurationError, match=f"{field} of shape"):
            run(strategy, replace(POOL, **{field: change(getattr(POOL, field))}))


def test_rows_must_match_the_candidates_and_widths_each_other():
    with pytest.raises(ConfigurationError, match=r"\(3, 3\).*shape \(4, at least 1\)"):
        run("entropy", replace(POOL, logits=torch.randn(3, 3)))
    with pytest.raises(ConfigurationError, match=r"labeled_features .*shape \(L, 2\)"):
        run("coreset", replace(POOL, labeled_features=torch.randn(6, 3)))


LABELED = PoolOutputs(
    indices=POOL.indices,
    logits=POOL.logits,
    predicted_losses=torch.randn(4),
    labeled_scores=torch.tensor([0.0, 0.5, 1.0, 0.2]),
    images=torch.zeros(4, 6, 5, 3, dtype=torch.uint8),
    labels=torch.tensor([0, 2, 1]),
    labeled_indices=torch.tensor([7, 2, 4]),
    labeled_logits=torch.randn(3, 3),
    labeled_images=torch.zeros(3, 6, 5, 3, dtype=torch.uint8),
    passes=TensorPasses(torch.randn(5, 4, 3)),
    heldout_logits=torch.randn(2, 3),
    heldout_labels=torch.tensor([2, 0]),
    true_labels=torch.tensor([1, 0, 0, 2]),
    state={"weights": [0.5, 1.5], "text": None},
    strategy_weights=torch.full((4, 2), 0.5),
    strategy_search={"loss": 0.5},
)


def needing(*needs):
    def needy(pool, n, generator):
        if pool.passes is not None:
            pool.passes.logits(torch.arange(len(pool)))
        return Query(tuple(pool.indices[:n].tolist()))

    needy.needs = frozenset(needs)
    return needy


CALLED = {"classify": lambda features: features, "retrain": lambda batches, max_epochs=None: []}
LABELED_FIELDS = (
    *("labels", "labeled_indices", "labeled_logits", "labeled_images"),
    *("heldout_logits", "heldout_labels"),
)
EVERYTHING = needing(*POOL_OUTPUTS - {"features", "labeled_features"})
LABELED = replace(LABELED, **CALLED)


def test_everything_that_fits_passes():
    assert run(EVERYTHING, LABELED).indices == (3, 5)
    assert run(EVERYTHING, replace(LABELED, state=None)).indices == (3, 5)
    nothing = {name: getattr(LABELED, name)[:0] for name in LABELED_FIELDS}
    assert run(EVERYTHING, replace(LABELED, **nothing)).indices == (3, 5)


@pytest.mark.parametrize("field", sorted(POOL_OUTPUTS - {"features", "labeled_features", "state"}))
def test_every_output_that_is_missing_is_named(field):
    with pytest.raises(ConfigurationError, match=f"needy' needs {field} "):
        run(EVERYTHING, replace(LABELED, **{field: None}))


@pytest.mark.parametrize(
    "field, value, complaint",
    [
        ("predicted_losses", torch.randn(4, 1), r"\(4, 1\).*shape \(4,\) as floating"),
        ("labeled_scores", torch.randn(3), r"expected shape \(4,\)"),
        (
            "labeled_scores",
            torch.tensor([0, 0.5, 1.1, 0]),
            r"in \[0, 1.1\]; expected values in \[0, 1\]",
        ),
        ("images", torch.zeros(4, 6, 5, 3), r"float32.*\(4, .*\) as bytes"),
        ("images", torch.zeros(4, 6, 5, dtype=torch.uint8), "images of shape"),
        ("labels", torch.tensor([0, 1]), "labels of shape"),
        ("labels", torch.tensor([0.0, 1.0, 2.0]), "as integers"),
        ("labels", torch.tensor([0, 1, 3]), "labels given.*are 0 to 3; expected.*0 to 2"),
        ("labels", torch.tensor([0, -1, 1]), "are -1 to 1"),
        ("labeled_indices", torch.tensor([7, 2]), "labeled_indices of shape"),
        ("labeled_indices", torch.tensor([7, 2, 2]), "repeat.*once"),
        ("labeled_indices", torch.tensor([7, 2, 8]), "among the candidates; expected"),
        ("labeled_logits", torch.randn(3, 2), r"labeled_logits .*shape \(L, 3\)"),
        ("heldout_logits", torch.randn(3, 3), r"heldout_logits of shape|heldout_labels of shape"),
        ("heldout_labels", torch.tensor([0, 3]), "heldout_labels given.*are 0 to 3"),
        ("true_labels", torch.tensor([0, 1]), r"true_labels .*shape \(4,\) as integers"),
        (
            "labeled_images",
            torch.zeros(3, 6, 6, 3, dtype=torch.uint8),
            r"expected shape \(3, 6, 5, 3\) as bytes",
        ),
        ("state", [1], "state given to strategy .*needy' cannot be recorded: it is a list"),
        ("state", {"x": float("nan")}, "finite"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(field, value, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        run(EVERYTHING, replace(LABELED, **{field: value}))


def test_losses_that_are_not_finite_are_refused():
    losses = torch.tensor([0, torch.nan, 0, 0])
    with pytest.raises(DivergedError, match=r"not finite in 1 of 4.*row 1"):
        run(EVERYTHING, replace(LABELED, predicted_losses=losses))


class Passes:
    def __init__(self, n, make):
        self.n, self.make = n, make

    def __len__(self):
        return self.n

    def logits(self, rows):
        n = len(rows) if isinstance(rows, torch.Tensor) else len(range(*rows.indices(4)))
        return self.make(n)


@pytest.mark.parametrize(
    "passes, complaint",
    [
        (Passes(0, lambda n: torch.zeros(0, n, 3)), "0 passes"),
        (Passes(2, lambda n: torch.zeros(2, n)), r"shape \(2, 1\); expected \(2, 1, at least 1\)"),
        (Passes(2, lambda n: torch.zeros(3, n, 3)), r"\(3, 1, 3\); expected"),
        (
            Passes(2, lambda n: torch.zeros(2, 1, 3)),
            r"shape \(2, 1, 3\); expected \(2, 4, at least 1\)",
        ),
    ],
)
def test_passes_are_checked_where_they_are_made(passes, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        run(EVERYTHING, replace(LABELED, passes=passes))


@pytest.mark.parametrize("value", [lambda n: torch.nan, lambda n: torch.inf if n > 1 else 0.0])
def test_passes_that_are_not_finite_are_refused_where_they_are_made(value):
    passes = Passes(2, lambda n: torch.full((2, n, 3), value(n)))
    with pytest.raises(DivergedError, match="not finite"):
        run(EVERYTHING, replace(LABELED, passes=passes))


@pytest.mark.parametrize(
    "state", [(1, 2), {1: 2}, {"x": (1, 2)}, {"x": float("inf")}, {"x": np.zeros(2)}, "x"]
)
def test_a_state_that_no_record_can_hold_is_refused(state):
    with pytest.raises(ConfigurationError, match=r"state that strategy .*oddity' returned"):
        run(returning((3, 5), None, None, state))


def test_a_state_is_a_copy():
    state = {"weights": [1.0]}
    query = run(returning((3, 5), None, None, state))
    state["weights"].append(2.0)
    assert query.state == {"weights": [1.0]}


def test_what_is_not_needed_is_not_looked_at():
    run("entropy", replace(POOL, features=torch.full((4, 2), float("nan"))))
    run("random", PoolOutputs(POOL.indices))


@pytest.mark.parametrize(
    "strategy, complaint",
    [
        (returning((3,)), "asked for 2 candidates and returned 1"),
        (returning((3, 5, 8)), "asked for 2 candidates and returned 3"),
        (returning((3, 3)), "chose 3 more than once"),
        (returning((3, 0)), "chose 0, which are not among the candidates"),
        (returning((3.0, 5.0)), "integer indices"),
        (returning((3, 5), (1.0,)), "1 scores for 2 candidates"),
        (returning((3, 5), ("high", "low")), "integer indices"),
        (lambda pool, n, generator: [3, 5], "expected a Query"),
        (lambda pool, n, generator: None, "expected a Query"),
    ],
)
def test_wrong_results_are_refused_by_name(strategy, complaint):
    with pytest.raises(ConfigurationError, match=complaint) as error:
        run(strategy)
    assert "oddity" in str(error.value) or "lambda" in str(error.value)


def test_arrays_and_tensors_become_plain_numbers():
    query = run(returning(np.array([9, 3]), torch.tensor([1.0, 0.5])))
    assert query == Query((9, 3), (1.0, 0.5))
    assert [type(x) for x in (*query.indices, *query.scores)] == [int, int, float, float]
    assert type(run(returning(torch.tensor([9, 3]))).indices[0]) is int


def test_random_is_uniform_and_extends_its_own_prefix():
    pool = PoolOutputs(torch.tensor([10, 20, 30]))
    generator = np.random.default_rng(0)
    firsts = [run_strategy("random", pool, 1, generator).indices[0] for _ in range(3000)]
    np.testing.assert_allclose(np.bincount(firsts)[[10, 20, 30]] / 3000, 1 / 3, atol=0.03)
    assert run("random", n=2).indices == run("random", n=4).indices[:2]


@pytest.mark.parametrize("strategy", ["random", "entropy", "coreset", "badge"])
def test_half_precision_and_gradient_tracking_outputs_will_do(strategy):
    pool = replace(
        POOL,
        logits=POOL.logits.bfloat16(),
        features=POOL.features.clone().requires_grad_(),
        labeled_features=POOL.labeled_features.half(),
    )
    assert len(run(strategy, pool, 4)) == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("strategy", ["random", "entropy", "coreset", "badge"])
def test_a_gpu_chooses_what_the_cpu_chooses(strategy):
    draw = torch.Generator().manual_seed(0)
    outputs = [torch.randn(*shape, generator=draw) for shape in [(500, 10), (500, 64), (50, 64)]]
    cpu = run(strategy, PoolOutputs(torch.arange(500), *outputs), 50)
    gpu = run(strategy, PoolOutputs(torch.arange(500), *[x.cuda() for x in outputs]), 50)
    assert cpu.indices == gpu.indices
    if cpu.scores is not None:
        np.testing.assert_allclose(cpu.scores, gpu.scores, rtol=1e-9)
