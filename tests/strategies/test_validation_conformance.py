"""The suite for validation schemes passes good ones and catches bad ones."""

import numpy as np
import pytest

from alhpo.base.errors import ConfigurationError
from alhpo.testing import check_validation_scheme
from alhpo.validation import get_validation


@pytest.mark.parametrize(
    "scheme",
    [
        *("holdout:0.2", "holdout:0.1x3", "random:0.1x3", "kfold:2", "kfold:5"),
        *("weighted:random:0.2", "acquisition:kfold:3"),
    ],
)
def test_schemes_of_the_package_conform(scheme):
    check_validation_scheme(get_validation(scheme))


class Halves:
    """A correct scheme; the subclasses break one rule each."""

    name = "halves"
    minimum = 2

    def splits(self, labels, generator):
        if len(labels) < self.minimum:
            raise ConfigurationError("label more")
        return [self.split(labels, generator.permutation(len(labels)))]

    def split(self, labels, order):
        return order[: len(order) // 2], order[len(order) // 2 :]


class Overlaps(Halves):
    def split(self, labels, order):
        return order[: len(order) // 2 + 1], order[len(order) // 2 :]


class Repeats(Halves):
    def split(self, labels, order):
        train, validation = super().split(labels, order)
        return np.concatenate([train, train]), validation


class LeavesNothing(Halves):
    def split(self, labels, order):
        return order, order[:0]


class OutOfRange(Halves):
    def split(self, labels, order):
        return order, np.array([len(labels)])


class Negative(Halves):
    def split(self, labels, order):
        return order[1:], np.array([-1])


class Masks(Halves):
    def split(self, labels, order):
        return labels == 0, labels != 0


class Lists(Halves):
    def split(self, labels, order):
        return tuple(part.tolist() for part in super().split(labels, order))


class Triples(Halves):
    def split(self, labels, order):
        return order[:1], order[1:], order[:0]


class NoSplits(Halves):
    def splits(self, labels, generator):
        super().splits(labels, generator)
        return []


class OwnRandomness(Halves):
    def splits(self, labels, generator):
        return super().splits(labels, np.random.default_rng())


class GlobalRandomness(Halves):
    def split(self, labels, order):
        return super().split(labels, np.random.permutation(len(labels)))  # noqa: NPY002


class SortsLabels(Halves):
    def split(self, labels, order):
        labels.sort()
        return super().split(labels, order)


class NeedsEveryClass(Halves):
    def split(self, labels, order):
        if len(np.unique(labels)) < 5:
            raise ConfigurationError("label every class")
        return super().split(labels, order)


class FailsWithFewLabels(Halves):
    def splits(self, labels, generator):
        if len(labels) < 5:
            raise ZeroDivisionError
        return super().splits(labels, generator)


class SplitsOneLabel(Halves):
    minimum = 1

    def split(self, labels, order):
        return (order, order + 0) if len(order) == 1 else super().split(labels, order)


class Nameless(Halves):
    name = ""


class Weighs(Halves):
    """A correct scheme with weights; the subclasses break one rule each."""

    needs = ("features",)

    def weights(self, selection, generator):
        return generator.random(len(selection.labeled_features))


class NeedsLabels(Weighs):
    needs = ("labels",)


class WithoutNeeds(Halves):
    def weights(self, selection, generator):
        return np.ones(40)


class TooFewWeights(Weighs):
    def weights(self, selection, generator):
        return super().weights(selection, generator)[1:]


class NegativeWeights(Weighs):
    def weights(self, selection, generator):
        return super().weights(selection, generator) - 0.5


class NoWeight(Weighs):
    def weights(self, selection, generator):
        return 0 * super().weights(selection, generator)


class InfiniteWeights(Weighs):
    def weights(self, selection, generator):
        return np.inf * super().weights(selection, generator)


class OwnWeights(Weighs):
    def weights(self, selection, generator):
        return super().weights(selection, np.random.default_rng())


class ChangesFeatures(Weighs):
    def weights(self, selection, generator):
        selection.labeled_features[0] = 0
        return super().weights(selection, generator)


def test_a_correct_scheme_passes():
    check_validation_scheme(Halves())
    check_validation_scheme(Weighs())


@pytest.mark.parametrize(
    "scheme, complaint",
    [
        (Overlaps, "in both parts"),
        (Repeats, "repeat"),
        (LeavesNothing, "the validation part is empty"),
        (OutOfRange, "outside 0 to 199"),
        (Negative, "outside 0 to 199"),
        (Masks, "1-D array of integers"),
        (Lists, "1-D array of integers"),
        (Triples, "pair"),
        (NoSplits, "no split"),
        (OwnRandomness, "different splits"),
        (GlobalRandomness, "NumPy's global generator"),
        (SortsLabels, "changed the labels"),
        (NeedsEveryClass, "one class missing: refused"),
        (FailsWithFewLabels, "two labels: raised ZeroDivisionError"),
        (SplitsOneLabel, "one label: must be refused"),
        (Nameless, "name must be text"),
        (NeedsLabels, "needs .'labels'.; legal: features, probabilities"),
        (WithoutNeeds, "both of them"),
        (TooFewWeights, r"array of \(40,\)"),
        (NegativeWeights, "negative, not finite, or all 0"),
        (NoWeight, "negative, not finite, or all 0"),
        (InfiniteWeights, "negative, not finite, or all 0"),
        (OwnWeights, "different weights"),
        (ChangesFeatures, "changed the selection"),
    ],
)
def test_broken_schemes_are_caught(scheme, complaint):
    state = np.random.get_state()  # noqa: NPY002
    with pytest.raises(AssertionError, match=complaint):
        check_validation_scheme(scheme())
    np.random.set_state(state)  # noqa: NPY002
