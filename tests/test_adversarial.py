"""VAAL's networks: shapes, the loss, what they tell apart, and exact resume."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from alhpo import ActiveLearner
from alhpo.base.errors import ConfigurationError
from alhpo.data.batches import InputFormat
from alhpo.outputs.adversarial import VAE, Discrimination, Discriminator, negative_elbo
from alhpo.testing.process_state import process_left_alone
from alhpo.training.checkpoints import FILE_NAME
from alhpo.training.compute import Compute

CPU = Compute.resolve("cpu", "float32", 8)


def discrimination(data, labeled, unlabeled, **options):
    images = data.images
    mean, std = data.channel_statistics()
    options = {"epochs": 3, "seed": 0, "compute": CPU, "form": InputFormat(mean, std)} | options
    return Discrimination(labeled=images[labeled], unlabeled=images[unlabeled], **options)


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (15, 8), (28, 28), (31, 32), (64, 40)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_autoencoder_adapts_to_the_images(size, channels):
    vae = VAE((channels, *size))
    images = torch.randn(3, channels, *size)
    reconstruction, mean, log_variance = vae(images)
    assert reconstruction.shape == images.shape
    assert mean.shape == log_variance.shape == (3, 32)
    assert Discriminator()(mean).shape == (3,)


def test_negative_elbo_is_that_of_the_distributions():
    images, reconstruction = torch.randn(2, 4, 2, 6, 6).double()
    mean, log_variance = torch.randn(2, 4, 32).double()
    decoder = Independent(Normal(reconstruction, torch.ones(())), 3)
    constant = Independent(Normal(images, torch.ones(())), 3).log_prob(images)
    posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones(())), 1)
    expected = constant - decoder.log_prob(images) + kl_divergence(posterior, prior)
    found = negative_elbo(images, reconstruction, mean, log_variance)
    torch.testing.assert_close(found, expected.mean())


def test_classes_never_labelled_look_unlabelled(digits):
    """Labelled are digits 0 to 4 only; the lowest scores are of the others."""
    few = digits.labels < 5
    labeled = few.nonzero().flatten()[:100]
    unlabeled = torch.ones(len(few), dtype=torch.bool).index_fill(0, labeled, False).nonzero()[:, 0]
    unlabeled = unlabeled[:600]
    scores = discrimination(digits, labeled, unlabeled, epochs=6).scores()
    assert scores.shape == (600,)
    assert scores.dtype == torch.float32
    assert 0 <= scores.min() < scores.max() <= 1
    lowest = unlabeled[scores.argsort()[:60]]
    assert (~few[lowest]).float().mean() > 0.75  # 0.54 by chance


def test_the_same_seed_gives_the_same_scores(few_digits):
    torch.manual_seed(1)
    with process_left_alone("VAAL"):
        first = discrimination(few_digits, range(30), range(30, 120)).scores()
    torch.manual_seed(2)
    assert torch.equal(discrimination(few_digits, range(30), range(30, 120)).scores(), first)
    for change in ({"seed": 1}, {"epochs": 4}):
        other = discrimination(few_digits, range(30), range(30, 120), **change).scores()
        assert not torch.equal(other, first)


@pytest.mark.parametrize(("labeled", "unlabeled"), [(1, 50), (30, 1), (100, 20), (3, 64)])
def test_any_number_of_images(few_digits, labeled, unlabeled):
    rows = range(labeled), range(120 - unlabeled, 120)
    scores = discrimination(few_digits, *rows, epochs=2).scores()
    assert scores.shape == (unlabeled,)
    assert scores.isfinite().all()


class Killed(BaseException):
    pass


def kill_at(last):
    def callback(epoch):
        if epoch == last:
            raise Killed

    return callback


def test_a_killed_training_goes_on_exactly(few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr("alhpo.outputs.adversarial.CHECKPOINT_SECONDS", 0.0)
    rows = range(30), range(30, 120)
    whole = discrimination(few_digits, *rows, epochs=5).scores()
    with pytest.raises(Killed):
        discrimination(few_digits, *rows, epochs=5).scores(tmp_path, kill_at(3))
    epochs = []
    resumed = discrimination(few_digits, *rows, epochs=5).scores(tmp_path, epochs.append)
    assert epochs == [3, 4, 5]
    assert torch.equal(resumed, whole)
    # other images, another seed or a damaged file: trained anew
    for change in (
        {"seed": 9},
        {"form": InputFormat((0.5,), (0.5,))},
        {"labeled": few_digits.images[:29]},
    ):
        epochs.clear()
        task = replace(discrimination(few_digits, *rows, epochs=5), **change)
        assert torch.equal(task.scores(tmp_path, epochs.append), task.scores())
        assert epochs[0] == 1
    (tmp_path / FILE_NAME).write_bytes(b"broken")
    assert torch.equal(discrimination(few_digits, *rows, epochs=5).scores(tmp_path), whole)


def test_what_cannot_be_trained_is_refused(few_digits):
    with pytest.raises(ConfigurationError, match="nothing is labelled"):
        discrimination(few_digits, [], range(10)).scores()
    with pytest.raises(ConfigurationError, match="7x9 pixels"):
        VAE((1, 7, 9))
    small = replace(
        few_digits, images=few_digits.images[:, :7], eval_images=few_digits.eval_images[:, :7]
    )
    with pytest.raises(ConfigurationError, match="at least 8x8"):
        ActiveLearner(small, strategy="vaal")
    with pytest.raises(ConfigurationError, match="vaal_epochs is 0"):
        ActiveLearner(few_digits, strategy="vaal", vaal_epochs=0)


def test_the_depth_follows_the_shorter_side():
    depths = [
        sum(isinstance(m, torch.nn.Conv2d) for m in VAE((3, *size)).modules())
        for size in ((8, 8), (15, 15), (16, 16), (32, 32), (16, 64), (224, 224))
    ]
    assert depths == [1, 1, 2, 3, 2, 5]
    assert all(a <= b for a, b in itertools.pairwise(depths[:4]))
