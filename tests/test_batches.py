"""Batches against brute force: every augmented image must be a shifted, flipped source image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional as tv

from alhpo.data.batches import DeviceImages, InputFormat
from alhpo.testing.process_state import global_seed, process_left_alone

CPU = torch.device("cpu")
#: Leaves pixel values as they are, but for rounding.
RAW = {1: InputFormat((0.0,), (1 / 255,)), 3: InputFormat((0.0,) * 3, (1 / 255,) * 3)}


def pixels(n, height=8, width=8, channels=1, seed=0):
    """Images without zeros, so that the padding can be told apart."""
    shape = (n, height, width, channels)
    return torch.from_numpy(np.random.default_rng(seed).integers(1, 256, shape).astype(np.uint8))


def numbered(n, form=None, **shape):
    """Images whose labels are their positions."""
    images = pixels(n, **shape)
    return DeviceImages(images, torch.arange(n), form or RAW[images.shape[3]], CPU)


def epoch(source, batch_size=4, augmentation="none", key=(0,)):
    return list(source.epoch(batch_size, augmentation, *key))


def as_pixels(inputs):
    return inputs.permute(0, 2, 3, 1).round().to(torch.uint8)


def shifted(image, down, right):
    """``image`` moved by whole pixels, zeros where nothing was."""
    height, width = image.shape[:2]
    moved = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                moved[row, column] = image[row - down, column - right]
    return moved


def explanation(result, image, pad, flip):
    """(down, right, flipped) that turn ``image`` into ``result``."""
    steps = range(-pad, pad + 1)
    for flipped in (False, True) if flip else (False,):
        base = image.flip(1) if flipped else image
        for down in steps:
            for right in steps:
                if torch.equal(shifted(base, down, right), result):
                    return down, right, flipped
    return None


# --- augmentation --------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", ["none", "flip", "crop", "crop-flip"])
@pytest.mark.parametrize(
    ("height", "width", "channels", "pad"), [(8, 8, 1, 1), (5, 9, 3, 1), (17, 16, 3, 2)]
)
def test_every_image_is_a_shift_and_flip_of_its_source(augmentation, height, width, channels, pad):
    source = numbered(8, height=height, width=width, channels=channels)
    crop, flip = "crop" in augmentation, "flip" in augmentation
    seen = set()
    for inputs, labels in epoch(source, 4, augmentation):
        assert inputs.shape == (4, channels, height, width) and inputs.dtype == torch.float32
        for result, label in zip(as_pixels(inputs), labels, strict=True):
            found = explanation(result, source.values[label], pad if crop else 0, flip)
            assert found is not None
            seen.add(found)
    assert len(seen) > 1 or augmentation == "none"


def test_shifts_and_flips_are_uniform_and_independent():
    source = numbered(4)
    keys = range(150)
    found = [
        explanation(result, source.values[label], 1, True)
        for key in keys
        for inputs, labels in epoch(source, 4, "crop-flip", (key,))
        for result, label in zip(as_pixels(inputs), labels, strict=True)
    ]
    counts = {kind: found.count(kind) for kind in set(found)}
    expected = len(found) / 18
    assert len(counts) == 18  # 3 x 3 shifts, flipped or not
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 45  # 17 degrees of freedom: p < 0.0003


def test_padding_is_black_also_after_normalisation():
    form = InputFormat((0.5,), (0.25,))
    source = DeviceImages(
        torch.full((20, 8, 8, 1), 255, dtype=torch.uint8), torch.zeros(20), form, CPU
    )
    (inputs, _), *_ = epoch(source, 20, "crop")
    assert torch.allclose(inputs.abs(), torch.tensor(2.0))
    assert {-2, 2} == set(inputs.round().unique().tolist())


# --- order ---------------------------------------------------------------------------------------


COUNTS = st.integers(1, 40), st.integers(2, 12)
# --- rotation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", ["rotate", "crop-rotate", "flip-rotate"])
@pytest.mark.parametrize("shape", [(16, 16), (12, 20), (21, 9)])
def test_images_are_rotated_by_up_to_15_degrees_about_their_centres(augmentation, shape):
    """Against torchvision, inside the largest disc, of which every pixel stays in the image."""
    source = numbered(12, height=shape[0], width=shape[1], channels=3)
    plan = source.plan(6, augmentation, "x")
    order, rows, columns, turns = plan.parts
    assert turns.dtype == torch.float32 and turns.shape == (2, 6, 2)
    assert torch.allclose(turns.square().sum(-1), torch.ones(2, 6))
    angles = torch.atan2(turns[..., 1], turns[..., 0]).rad2deg()
    assert angles.abs().max() <= 15 and angles.abs().max() > 5 and angles.min() < 0 < angles.max()
    axes = torch.meshgrid(*(torch.arange(side) - (side - 1) / 2 for side in shape), indexing="ij")
    inside = (axes[0].square() + axes[1].square()).sqrt() <= (min(shape) - 1) / 2 - 1
    for step in range(2):
        straight = source.batch(plan.source, order[step], rows[step], columns[step])[0]
        turned = source.batch(plan.source, *(part[step] for part in plan.parts))[0]
        for one, other, angle in zip(straight, turned, angles[step], strict=True):
            mode = tv.InterpolationMode.BILINEAR
            expected = tv.rotate(one, float(angle), mode)
            assert torch.allclose(other[:, inside], expected[:, inside], atol=0.5)


def test_rotation_repeats_edges_and_leaves_crops_and_flips_as_they_are():
    source, alone = numbered(9), numbered(9)
    source.values.fill_(200)
    for inputs, _ in epoch(source, 3, "rotate"):
        assert torch.allclose(inputs, torch.full_like(inputs, 200), atol=1e-3)  # no black corners
    for one, other in (("crop-flip-rotate", "crop-flip"), ("crop-rotate", "crop")):
        parts = source.plan(3, one, "x").parts
        for mine, theirs in zip(parts, alone.plan(3, other, "x").parts, strict=False):
            assert torch.equal(mine, theirs)


AUGMENTATIONS = st.sampled_from(["none", "flip", "crop", "crop-flip"])


def shown(batches):
    return [label for _, labels in batches for label in labels.tolist()]


@settings(max_examples=60, deadline=None)
@given(*COUNTS, AUGMENTATIONS, st.integers(0, 5))
def test_a_filled_epoch_shows_every_image_in_full_batches(n, batch_size, augmentation, key):
    batches = epoch(numbered(n, height=3, width=3), batch_size, augmentation, (key, "x"))
    assert all(len(inputs) == len(labels) == batch_size for inputs, labels in batches)
    order = shown(batches)
    assert len(order) - n < batch_size or n < batch_size == len(order)
    for start in range(0, len(order), n):  # permutations, the last one cut
        part = order[start : start + n]
        assert len(set(part)) == len(part)
    assert set(order) == set(range(n))


@settings(max_examples=60, deadline=None)
@given(*COUNTS, AUGMENTATIONS, st.integers(0, 5))
def test_an_epoch_that_drops_shows_each_image_at_most_once(n, batch_size, augmentation, key):
    source = numbered(n, height=3, width=3)
    batches = list(source.epoch(batch_size, augmentation, key, "x", images="drop"))
    sizes, order = [len(labels) for _, labels in batches], shown(batches)
    if n == 1:
        assert (sizes, order) == ([2], [0, 0])
    elif n < batch_size:
        assert sizes == [n] and sorted(order) == list(range(n))
    else:
        assert sizes == [batch_size] * (n // batch_size)
        assert len(set(order)) == len(order)


@settings(max_examples=60, deadline=None)
@given(*COUNTS, st.integers(1, 100))
def test_an_epoch_of_a_number_of_images_goes_through_them_again_and_again(n, batch_size, images):
    batches = list(numbered(n).epoch(batch_size, "none", 0, images=images))
    order = shown(batches)
    assert [len(labels) for _, labels in batches] == [batch_size] * max(images // batch_size, 1)
    for start in range(0, len(order), n):
        part = order[start : start + n]
        assert len(set(part)) == len(part)
    passes = {tuple(order[start : start + n]) for start in range(0, len(order) - n + 1, n)}
    # each in an order of its own; of few images, two orders may be equal
    assert n < 12 or len(passes) == len(order) // n


@pytest.mark.parametrize(("labels", "steps"), [(100, 4), (2000, 63), (64, 2)])
def test_steps_of_the_papers_epochs(labels, steps):
    """Huseljic et al. (2023) with batches of 32, where their code adds no batch."""
    assert numbered(labels, height=1, width=1).batches(32) == steps


def test_images_stay_with_their_labels():
    source = numbered(11, height=4, width=4, channels=3)
    for inputs, labels in epoch(source, 4):
        assert torch.equal(as_pixels(inputs), source.values[labels])


def test_order_changes_with_the_epoch_and_leaves_no_image_out_for_good():
    source = numbered(10)
    orders = [
        tuple(torch.cat([labels for _, labels in epoch(source, 4, key=(7, e))]).tolist())
        for e in range(30)
    ]
    assert len(set(orders)) == 30
    assert set().union(*orders) == set(range(10))


def test_lone_image_is_doubled_with_augmentations_of_its_own():
    source = numbered(1)
    pairs = [list(source.epoch(32, "crop-flip", key, images="drop")) for key in range(10)]
    assert all(len(pair) == 1 and pair[0][0].shape == (2, 1, 8, 8) for pair in pairs)
    assert any(not torch.equal(*pair[0][0]) for pair in pairs)


@pytest.mark.parametrize("augmentation", ["none", "crop-flip", "crop-rotate"])
def test_epochs_are_functions_of_the_key_alone(augmentation):
    source = numbered(9)
    with process_left_alone("epoch"):
        first = epoch(source, 4, augmentation, (3, "order", 1))
    for seed in (1, 2):
        with global_seed(seed):
            epoch(source, 4, augmentation, (3, "order", 2))
            again = epoch(numbered(9), 4, augmentation, (3, "order", 1))
        for (a, b), (c, d) in zip(first, again, strict=True):
            assert torch.equal(a, c) and torch.equal(b, d)
    other = epoch(source, 4, augmentation, (3, "order", 2))
    assert not all(torch.equal(a, c) for (a, _), (c, _) in zip(first, other, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(2, 6),
    st.sampled_from(["none", "flip", "crop", "crop-flip", "rotate", "crop-flip-rotate"]),
    st.booleans(),
)
def test_an_epoch_is_the_batches_of_its_plan(n, batch_size, augmentation, subset):
    """Also of a plan that was written into another one, and of some of the images."""
    source = numbered(2 * n, channels=3)
    source = source.part(torch.arange(1, 2 * n, 2)) if subset else source.part(torch.arange(n))
    plan, other = (source.plan(batch_size, augmentation, "x", key) for key in (0, 1))
    batches = epoch(source, batch_size, augmentation, ("x", 1))
    assert plan.steps == other.steps == source.batches(batch_size) == len(batches)
    for mine, theirs in zip(plan.parts, other.parts, strict=True):
        mine.copy_(theirs)
    for step, (inputs, labels) in enumerate(batches):
        for drawn in (plan, other):
            found = source.batch(drawn.source, *(part[step] for part in drawn.parts))
            assert torch.equal(found[0], inputs) and torch.equal(found[1], labels)


def test_two_epochs_can_be_read_side_by_side():
    source = numbered(12)
    alone = [epoch(source, 4, "crop-flip", (key,)) for key in (0, 1)]
    together = zip(source.epoch(4, "crop-flip", 0), source.epoch(4, "crop-flip", 1), strict=True)
    for position, (one, other) in enumerate(together):
        assert torch.equal(one[0], alone[0][position][0])
        assert torch.equal(other[0], alone[1][position][0])


def test_images_are_not_changed():
    source = numbered(9)
    before = source.values.clone()
    epoch(source, 4, "crop-flip")
    list(source.blocks())
    assert torch.equal(source.values, before)


# --- model input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_normalisation(channels):
    mean, std = (0.4, 0.5, 0.1)[:channels], (0.2, 0.3, 0.01)[:channels]
    source = numbered(6, InputFormat(mean, std), channels=channels)
    expected = (source.values.numpy() / 255 - np.array(mean)) / np.array(std)
    (block, labels), *rest = source.blocks()
    assert not rest and labels.tolist() == list(range(6)) and block.dtype == torch.float32
    assert np.allclose(block.numpy(), expected.transpose(0, 3, 1, 2), rtol=1e-4, atol=1e-5)
    for inputs, labels in epoch(source, 3):
        assert torch.equal(inputs, block[labels])


def test_blocks_are_all_images_in_order():
    images = pixels(2500, 3, 2)
    parts = list(DeviceImages(images, torch.arange(2500), RAW[1], CPU).blocks())
    assert len(parts) > 1
    assert torch.equal(as_pixels(torch.cat([inputs for inputs, _ in parts])), images)
    assert torch.cat([labels for _, labels in parts]).tolist() == list(range(2500))
    assert [labels for _, labels in DeviceImages(images, None, RAW[1], CPU).blocks()] == [
        None
    ] * len(parts)


@pytest.mark.parametrize("size", [None, (12, 10)])
def test_channels_last_is_another_order_of_the_same_values(size):
    mean, std = (0.4, 0.5, 0.1), (0.2, 0.3, 0.4)
    plain, last = (
        numbered(6, InputFormat(mean, std, size, order), channels=3) for order in (False, True)
    )
    pairs = [
        *zip(epoch(plain, 3, "crop-flip"), epoch(last, 3, "crop-flip"), strict=True),
        *zip(plain.blocks(), last.blocks(), strict=True),
    ]
    for (one, _), (other, _) in pairs:
        assert torch.allclose(one, other, atol=1e-5)
        assert one.is_contiguous()
        assert other.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(4, 4), (16, 16), (5, 11), (8, 8)])
def test_resizing_is_torchvisions(size, mode):
    """Scaled to cover the size, and cropped to the centre."""
    form = InputFormat((0.0,) * 3, (1.0,) * 3, size, interpolation=mode)
    source = numbered(6, form, channels=3)
    (block, _), *_ = source.blocks()
    images = source.values.permute(0, 3, 1, 2).float() / 255
    covering = [max(size)] * 2  # the images are square
    expected = tv.resize(images, covering, tv.InterpolationMode(mode), antialias=True)
    assert torch.allclose(block, tv.center_crop(expected, list(size)), atol=1e-5)
    for inputs, labels in epoch(source, 3):
        assert inputs.shape == (3, 3, *size)
        assert torch.allclose(inputs, block[labels], atol=1e-6)


def test_augmentation_comes_before_resizing():
    form = InputFormat((0.0,), (1 / 255,), (16, 16))
    small, large = numbered(6), numbered(6, form)
    pairs = zip(epoch(small, 3, "crop-flip"), epoch(large, 3, "crop-flip"), strict=True)
    for (one, _), (other, _) in pairs:
        expected = tv.resize(one, [16, 16], tv.InterpolationMode.BILINEAR, antialias=True)
        assert torch.allclose(other, expected, atol=1e-3)
