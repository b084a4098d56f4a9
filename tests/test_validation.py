"""Validation schemes: what each split keeps to, for any labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alhpo import RunConfig
from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import ValidationScheme
from alhpo.testing import check_validation_scheme
from alhpo.testing.process_state import process_left_alone
from alhpo.validation import (
    AcquisitionWeighted,
    Holdout,
    KFold,
    RandomHoldout,
    Weighted,
    get_validation,
    register_validation_scheme,
    validation_scheme_names,
)
from alhpo.validation.registry import SCHEMES

LABELS = st.integers(1, 6).flatmap(
    lambda classes: st.lists(st.integers(0, classes - 1), min_size=2, max_size=60)
)
FRACTIONS = st.integers(1, 999).map(lambda thousandths: thousandths / 1000)


def rng(seed=0):
    return np.random.default_rng(seed)


def counts(labels):
    return np.bincount(labels, minlength=8)


def check_partition(train, validation, n):
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(n))
    assert len(train) > 0 and len(validation) > 0


@pytest.mark.parametrize(
    "scheme",
    [
        Holdout(),
        Holdout(0.01),
        Holdout(0.99),
        Holdout(0.5, 3),
        RandomHoldout(),
        RandomHoldout(0.01),
        RandomHoldout(0.99, 2),
        KFold(),
        KFold(2),
        KFold(10),
        "holdout:0.2",
        "holdout:0.1x3",
        "random:0.1x3",
        "kfold:3",
    ],
    ids=str,
)
def test_schemes_conform(scheme):
    check_validation_scheme(get_validation(scheme))


@given(LABELS, FRACTIONS, st.integers(1, 3), st.integers(0, 99))
def test_holdout(labels, fraction, repeats, seed):
    labels = np.array(labels)
    n = len(labels)
    splits = Holdout(fraction, repeats).splits(labels, rng(seed))
    assert len(splits) == repeats
    for train, validation in splits:
        check_partition(train, validation, n)
        assert len(validation) == min(max(round(fraction * n), 1), n - 1)
        share = counts(labels) * len(validation) / n
        assert (np.abs(counts(labels[validation]) - share) < 1).all()


@given(LABELS, FRACTIONS, st.integers(1, 3), st.integers(0, 99))
def test_random_holdout(labels, fraction, repeats, seed):
    labels = np.array(labels)
    n = len(labels)
    splits = RandomHoldout(fraction, repeats).splits(labels, rng(seed))
    assert len(splits) == repeats
    for train, validation in splits:
        check_partition(train, validation, n)
        assert len(validation) == min(max(round(fraction * n), 1), n - 1)
    unrelated = RandomHoldout(fraction, repeats).splits(np.zeros(n, dtype=int), rng(seed))
    assert all(
        np.array_equal(one, other)
        for split, again in zip(splits, unrelated, strict=True)
        for one, other in zip(split, again, strict=True)
    )


def test_random_holdout_is_not_stratified_and_treats_all_subsets_alike():
    """All 10 pairs of 5 labels are held out equally often, also both labels of one class, which
    a stratified hold-out never takes together."""
    labels = np.array([0, 0, 1, 1, 1])
    n_splits = 5000
    pairs = [tuple(v) for _, v in RandomHoldout(0.4, n_splits).splits(labels, rng(0))]
    shares = np.array([pairs.count(pair) for pair in set(pairs)]) / n_splits
    assert len(shares) == 10
    assert np.abs(shares - 0.1).max() < 5 * np.sqrt(0.1 * 0.9 / n_splits)
    stratified = {tuple(v) for _, v in Holdout(0.4, 500).splits(labels, rng(0))}
    assert (0, 1) in pairs and (0, 1) not in stratified


@given(LABELS, st.integers(2, 10), st.integers(0, 99))
def test_kfold(labels, k, seed):
    labels = np.array(labels)
    n = len(labels)
    if k > n:
        with pytest.raises(ConfigurationError, match=f"at least {k} labelled images.* {n}"):
            KFold(k).splits(labels, rng(seed))
        return
    splits = KFold(k).splits(labels, rng(seed))
    assert len(splits) == k
    for train, validation in splits:
        check_partition(train, validation, n)
        assert (np.abs(counts(labels[validation]) - counts(labels) / k) < 1).all()
    held_out = np.concatenate([validation for _, validation in splits])
    assert np.array_equal(np.sort(held_out), np.arange(n))
    sizes = [len(validation) for _, validation in splits]
    assert max(sizes) - min(sizes) <= 1


@given(LABELS, st.sampled_from(["holdout:0.2", "random:0.3x2", "kfold:2"]), st.integers(0, 9))
def test_splits_depend_on_labels_and_generator_only(labels, scheme, seed):
    labels = np.array(labels)
    with process_left_alone(scheme):
        one, other = (get_validation(scheme).splits(labels, rng(seed)) for _ in range(2))
    for split, again in zip(one, other, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(split, again, strict=True))


def test_weighted_schemes_split_as_those_they_weigh():
    labels = np.arange(40) % 4
    for scheme in ("random:0.3x2", "holdout:0.2", "kfold:4"):
        plain = get_validation(scheme).splits(labels, rng(3))
        for prefix in ("weighted", "acquisition"):
            weighted = get_validation(f"{prefix}:{scheme}").splits(labels, rng(3))
            for split, other in zip(plain, weighted, strict=True):
                assert all(np.array_equal(a, b) for a, b in zip(split, other, strict=True))


def test_repeats_and_seeds_differ():
    labels = np.arange(100) % 5
    first, second = (tuple(v) for _, v in Holdout(0.2, 2).splits(labels, rng(0)))
    other = tuple(Holdout(0.2).splits(labels, rng(1))[0][1])
    folds = [tuple(KFold(5).splits(labels, rng(seed))[0][1]) for seed in (0, 1)]
    assert len({first, second, other}) == 3
    assert folds[0] != folds[1]


def test_every_image_is_held_out_equally_often():
    labels = np.array([0] * 2 + [1] * 5 + [2] * 13)
    generator = rng(0)
    n_splits = 2000
    splits = Holdout(0.25, n_splits).splits(labels, generator)
    share = np.bincount(np.concatenate([v for _, v in splits]), minlength=20) / n_splits
    assert np.abs(share - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / n_splits)


def test_classes_with_one_label_and_two_labels_in_all():
    singletons = np.arange(10)
    for scheme in (Holdout(0.2), KFold(5)):
        for train, validation in scheme.splits(singletons, rng()):
            check_partition(train, validation, 10)
            assert len(validation) == 2
    for scheme in (Holdout(0.2), Holdout(0.9), KFold(2)):
        for train, validation in scheme.splits(np.array([3, 3]), rng()):
            assert len(train) == len(validation) == 1


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("scheme", [Holdout(), RandomHoldout(), KFold(2)], ids=str)
def test_too_few_labels(scheme, n):
    with pytest.raises(ConfigurationError, match="Label more"):
        scheme.splits(np.zeros(n, dtype=int), rng())


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("holdout:0.2", Holdout(0.2)),
        ("holdout:0.1x3", Holdout(0.1, 3)),
        ("holdout:1e-1", Holdout(0.1)),
        ("holdout:.25x1", Holdout(0.25, 1)),
        ("random:0.1", RandomHoldout(0.1)),
        ("random:0.1x3", RandomHoldout(0.1, 3)),
        ("kfold:10", KFold(10)),
        ("weighted:random:0.1x3", Weighted(RandomHoldout(0.1, 3))),
        ("acquisition:kfold:4", AcquisitionWeighted(KFold(4))),
    ],
)
def test_text_forms(text, scheme):
    assert get_validation(text) == scheme


@given(
    st.one_of(
        st.builds(Holdout, FRACTIONS, st.integers(1, 20)),
        st.builds(RandomHoldout, FRACTIONS, st.integers(1, 20)),
        st.builds(KFold, st.integers(2, 20)),
        st.builds(Weighted, st.builds(KFold, st.integers(2, 20))),
        st.builds(AcquisitionWeighted, st.builds(RandomHoldout, FRACTIONS)),
    )
)
def test_name_reads_back_as_the_scheme(scheme):
    assert get_validation(scheme.name) == scheme
    assert isinstance(scheme, ValidationScheme)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "holdout",
        "holdout:",
        "holdout:0",
        "holdout:1",
        "holdout:1.5",
        "holdout:-0.2",
        "holdout:nan",
        "holdout:e",
        "holdout:0.2x",
        "holdout:0.2x0",
        "holdout:0.2x-1",
        "holdout:0.2x1.5",
        "holdout:0.2 x 3",
        "random",
        "random:1",
        "random:0.2x0",
        "random:0.2, 3",
        "kfold",
        "kfold:1",
        "kfold:0",
        "kfold:2.5",
        "kfold:-3",
        "loo",
        "weighted",
        "weighted:",
        "weighted:loo",
        "weighted:weighted:kfold:5",
        "acquisition:weighted:kfold:5",
        "acquisition:holdout:2",
    ],
)
def test_text_that_is_refused(text):
    with pytest.raises(ConfigurationError, match=r"(holdout|random):0\.2|at least 2 folds"):
        get_validation(text)


def test_an_object_is_taken_as_it_is():
    scheme = Holdout(0.3)
    assert get_validation(scheme) is scheme
    with pytest.raises(ConfigurationError):
        Holdout(float("nan"))
    with pytest.raises(ConfigurationError):
        Holdout(0.2, 0)


class Halves:
    """The first half judges."""

    name = "halves"

    def splits(self, labels, generator):
        half = len(labels) // 2
        return [(np.arange(half, len(labels)), np.arange(half))]


def test_a_registered_scheme_is_in_settings_and_can_be_weighed():
    with SCHEMES.temporary():
        register_validation_scheme("halves", Halves())
        assert "halves" in validation_scheme_names()
        assert RunConfig.create({"validation": "halves"}).validation == "halves"
        assert get_validation("weighted:halves").scheme is get_validation("halves")
        with pytest.raises(ConfigurationError, match="Did you mean 'halves'"):
            get_validation("halfs")
        with pytest.raises(ConfigurationError, match="'halves' belongs to"):
            register_validation_scheme("halves", KFold(3))
        with pytest.raises(ConfigurationError, match="no name and splits"):
            register_validation_scheme("other", Halves)
    with pytest.raises(ConfigurationError, match="Setting 'validation' is 'halves': Unknown"):
        RunConfig.create({"validation": "halves"})
