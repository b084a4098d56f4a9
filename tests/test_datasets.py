"""Data sets from folders, arrays and timm's factory, held against images written here."""

import io
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image, ImageFile

from alhpo.base.errors import DataError
from alhpo.data.dataset import ImageDataset
from alhpo.data.loading import load_dataset
from alhpo.testing.process_state import process_left_alone


def pixels(seed, height=8, width=8, channels=3):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write_class(folder, images):
    """PNG files whose names sort in the given order."""
    folder.mkdir(parents=True)
    for number, array in enumerate(images):
        Image.fromarray(array).save(folder / f"{number:03d}.png")


@pytest.fixture
def folder(tmp_path):
    """Two classes of six 8 x 8 colour images."""
    for number, name in enumerate(["cat", "dog"]):
        write_class(tmp_path / "pets" / name, [pixels(10 * number + i) for i in range(6)])
    return tmp_path / "pets"


@pytest.fixture
def split_folder(tmp_path):
    """Three classes to train on, two of them to evaluate on, in another order of numbers."""
    for number, name in enumerate(["ant", "bee", "cow"]):
        write_class(tmp_path / "x" / "train" / name, [pixels(10 * number + i) for i in range(4)])
    write_class(tmp_path / "x" / "val" / "cow", [pixels(70)])
    write_class(tmp_path / "x" / "val" / "bee", [pixels(80), pixels(81)])
    return tmp_path / "x"


def opened(path):
    return np.asarray(Image.open(path))


def check_paths(dataset):
    """Every path is the file whose pixels and class stand at its position."""
    assert len(dataset.paths) == len(dataset)
    for path, image, label in zip(dataset.paths, dataset.images, dataset.labels, strict=True):
        assert np.array_equal(opened(path), image.numpy().squeeze())
        assert Path(path).parent.name == dataset.classes[label]


# --- digits --------------------------------------------------------------------------------------


def test_digits():
    from sklearn.datasets import load_digits

    with process_left_alone("load_dataset"):
        digits = load_dataset("digits")
    assert digits.images.shape == (1438, 8, 8, 1) and digits.eval_images.shape == (359, 8, 8, 1)
    assert digits.images.dtype == torch.uint8 and digits.num_classes == 10
    assert (digits.image_size, digits.channels, digits.paths) == ((8, 8), 1, None)
    ours = torch.cat([digits.images, digits.eval_images])[..., 0].double() * 16 / 255
    ours = torch.cat(
        [ours.round().flatten(1), torch.cat([digits.labels, digits.eval_labels])[:, None]], 1
    )
    source = load_digits()
    theirs = np.column_stack([source.data, source.target])
    assert np.array_equal(np.unique(ours.numpy(), axis=0), np.unique(theirs, axis=0))


def test_subsets_are_deterministic_and_part_of_the_whole():
    whole = load_dataset("digits")
    one, again = (load_dataset("digits", pool_size=50, eval_size=20) for _ in range(2))
    assert (len(one), len(one.eval_images)) == (50, 20)
    assert torch.equal(one.images, again.images) and torch.equal(one.labels, again.labels)
    assert torch.equal(one.eval_images, again.eval_images)
    known = {
        (image.numpy().tobytes(), int(c))
        for image, c in zip(whole.images, whole.labels, strict=True)
    }
    assert all(
        (i.numpy().tobytes(), int(c)) in known for i, c in zip(one.images, one.labels, strict=True)
    )
    assert len(load_dataset("digits", pool_size=10**6)) == len(whole)


@pytest.mark.parametrize("setting", ["pool_size", "eval_size", "image_size"])
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_below_one_are_refused(setting, value):
    with pytest.raises(DataError, match=f"{setting} is {value}"):
        load_dataset("digits", **{setting: value})


def test_image_size_of_digits():
    assert load_dataset("digits", image_size=16).image_size == (16, 16)


# --- folders -------------------------------------------------------------------------------------


def test_folder_of_classes(folder):
    dataset = load_dataset(str(folder))
    assert (dataset.name, dataset.classes) == ("pets", ("cat", "dog"))
    assert (len(dataset), len(dataset.eval_images)) == (11, 1)  # a fifth of 12 on average
    assert (dataset.image_size, dataset.channels) == ((8, 8), 3)
    check_paths(dataset)
    held_out = {image.numpy().tobytes() for image in dataset.eval_images}
    kept = {image.numpy().tobytes() for image in dataset.images}
    written = {opened(path).tobytes() for path in folder.rglob("*.png")}
    assert held_out | kept == written and not held_out & kept
    again = load_dataset(str(folder))
    assert again.paths == dataset.paths and torch.equal(again.images, dataset.images)


def test_eval_fraction(folder):
    tenth, half = (load_dataset(str(folder), eval_fraction=share) for share in (0.1, 0.5))
    assert 0 < len(tenth.eval_images) < len(half.eval_images) < 12
    assert set(tenth.eval_paths) < set(half.eval_paths)
    for fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(DataError, match="eval_fraction"):
            load_dataset(str(folder), eval_fraction=fraction)


def test_folder_with_splits_matches_classes_by_name(split_folder):
    dataset = load_dataset(str(split_folder))
    assert dataset.classes == ("ant", "bee", "cow")
    assert (len(dataset), len(dataset.eval_images)) == (12, 3)
    check_paths(dataset)
    expected = {pixels(80).tobytes(): 1, pixels(81).tobytes(): 1, pixels(70).tobytes(): 2}
    held_out = zip(dataset.eval_images, dataset.eval_labels.tolist(), strict=True)
    assert {image.numpy().tobytes(): label for image, label in held_out} == expected


@pytest.mark.parametrize("name", ["test", "val", "validation", "valid"])
def test_any_usual_name_of_the_evaluation_split_is_found(split_folder, name):
    (split_folder / "val").rename(split_folder / name)
    assert len(load_dataset(str(split_folder)).eval_images) == 3


def test_the_split_asked_for_comes_first(split_folder):
    write_class(split_folder / "test" / "ant", [pixels(99)])
    assert len(load_dataset(str(split_folder), eval_split="test").eval_images) == 1
    assert len(load_dataset(str(split_folder), eval_split="val").eval_images) == 3
    (split_folder / "train").rename(split_folder / "fold1")
    dataset = load_dataset(str(split_folder), train_split="fold1", eval_split="test")
    assert (len(dataset), len(dataset.eval_images)) == (12, 1)


def test_missing_evaluation_split_names_what_is_there(split_folder):
    (split_folder / "val").rename(split_folder / "other")
    with pytest.raises(DataError, match=r"none called 'validation'.*other, train"):
        load_dataset(str(split_folder))


def test_evaluation_class_that_the_pool_lacks(split_folder):
    write_class(split_folder / "val" / "dodo", [pixels(5)])
    with pytest.raises(DataError, match=r"classes that the pool lacks: dodo.*ant, bee, cow"):
        load_dataset(str(split_folder))


def test_subset_of_a_folder_keeps_paths_aligned(folder, split_folder):
    for where in (folder, split_folder):
        one, again = (load_dataset(str(where), pool_size=5, eval_size=1) for _ in range(2))
        assert (len(one), len(one.eval_images)) == (5, 1)
        check_paths(one)
        assert one.paths == again.paths and torch.equal(one.eval_images, again.eval_images)
        assert list(one.identities) == sorted(one.identities)


def test_mixed_sizes_become_224_or_what_is_asked(folder):
    Image.fromarray(pixels(1, 12, 30)).save(folder / "cat" / "wide.png")
    assert load_dataset(str(folder)).image_size == (224, 224)
    assert load_dataset(str(folder), image_size=20).image_size == (20, 20)


def test_size_that_all_share_is_kept_also_when_not_square(tmp_path):
    write_class(tmp_path / "wide" / "a", [pixels(i, 6, 9) for i in range(5)])
    dataset = load_dataset(str(tmp_path / "wide"))
    assert dataset.image_size == (6, 9)
    check_paths(dataset)


def test_one_image_of_another_size_among_many(tmp_path):
    write_class(tmp_path / "many" / "a", [pixels(i) for i in range(130)])
    Image.fromarray(pixels(0, 20, 20)).save(tmp_path / "many" / "a" / "001.png")
    assert load_dataset(str(tmp_path / "many")).image_size == (224, 224)


def test_resizing_crops_the_centre(tmp_path):
    left = np.zeros((10, 30, 3), np.uint8)
    left[:, 10:20] = 200  # the middle third, a square
    write_class(tmp_path / "x" / "a", [left, left // 2])
    dataset = load_dataset(str(tmp_path / "x"), image_size=10)
    images = torch.cat([dataset.images, dataset.eval_images]).sort(0)[0][1]
    assert (images == 200).all()


def test_grey_images_have_one_channel_and_mixed_ones_three(tmp_path):
    write_class(tmp_path / "x" / "a", [pixels(i, channels=1) for i in range(5)])
    grey = load_dataset(str(tmp_path / "x"))
    assert grey.channels == 1
    check_paths(grey)
    Image.fromarray(pixels(9)).save(tmp_path / "x" / "a" / "colour.png")
    mixed = load_dataset(str(tmp_path / "x"))
    assert mixed.channels == 3
    for path, image in zip(mixed.paths, mixed.images, strict=True):
        assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), image.numpy())


def test_palette_and_transparent_images_are_read_as_colour(tmp_path):
    (tmp_path / "x" / "a").mkdir(parents=True)
    image = Image.fromarray(pixels(3))
    image.quantize(16).save(tmp_path / "x" / "a" / "palette.png")
    image.convert("RGBA").save(tmp_path / "x" / "a" / "alpha.png")
    dataset = load_dataset(str(tmp_path / "x"), eval_fraction=0.5)
    assert dataset.channels == 3 and len(dataset) == len(dataset.eval_images) == 1
    shown = dict(zip(dataset.paths, dataset.images, strict=True))
    shown |= dict(zip(dataset.eval_paths, dataset.eval_images, strict=True))
    assert np.array_equal(shown[str(tmp_path / "x" / "a" / "alpha.png")].numpy(), pixels(3))


def damaged(kind):
    """The content of an image file that cannot be read."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(0, 40, 40)).save(buffer, "PNG")
    data = buffer.getvalue()
    return {
        "empty": b"",
        "text": b"<html>404</html>",
        "cut in the header": data[:20],
        "cut in the pixels": data[: len(data) // 2],
        "damaged pixels": data[:60] + bytes(200) + data[260:],
        "damaged chunk name": data[:33] + b"\0\0\0\0\0\0\0\0" + data[41:],
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "text",
        "cut in the header",
        "cut in the pixels",
        "damaged pixels",
        "damaged chunk name",
    ],
)
@pytest.mark.parametrize("among", [6, 100])
def test_broken_image_is_named(tmp_path, kind, among):
    write_class(tmp_path / "x" / "a", [pixels(i) for i in range(among)])
    (tmp_path / "x" / "a" / "001.png").write_bytes(damaged(kind))
    with pytest.raises(DataError, match=r"1 file .* cannot be used as an image:\n.*001\.png: "):
        load_dataset(str(tmp_path / "x"))
    dataset = load_dataset(str(tmp_path / "x"), on_error="skip")
    assert len(dataset) + len(dataset.eval_images) == among - 1
    assert [Path(path).name for path, _ in dataset.skipped] == ["001.png"]
    assert "1 file left out" in dataset.notes[-1]
    check_paths(dataset)


def test_all_broken_images_are_named_at_once(split_folder):
    bad = [split_folder / "train" / "ant" / "000.png", split_folder / "val" / "bee" / "000.png"]
    bad[0].write_bytes(damaged("text"))
    bad[1].write_bytes(damaged("cut in the pixels"))
    with pytest.raises(DataError) as caught:
        load_dataset(str(split_folder))
    assert all(f"{file}: " in str(caught.value) for file in bad)
    assert "--on-error skip" in str(caught.value)


def test_nothing_but_broken_images(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(damaged("empty"))
    for on_error in ("raise", "skip"):
        with pytest.raises(DataError, match=r"1\.png: the file is empty"):
            load_dataset(str(tmp_path), on_error=on_error)
    with pytest.raises(DataError, match="on_error is 'ignore'"):
        load_dataset(str(tmp_path), on_error="ignore")


def test_empty_folders(tmp_path):
    with pytest.raises(DataError, match="one sub-folder of images per class"):
        load_dataset(str(tmp_path))
    (tmp_path / ".hidden").mkdir()
    with pytest.raises(DataError, match="one sub-folder of images per class"):
        load_dataset(str(tmp_path))


def test_a_class_without_images_is_a_class(split_folder):
    (split_folder / "train" / "dodo").mkdir()
    (split_folder / "train" / "dodo" / "notes.txt").write_text("extinct")
    dataset = load_dataset(str(split_folder))
    assert dataset.classes == ("ant", "bee", "cow", "dodo")
    assert [note for note in dataset.notes if "classes without images: dodo" in note]
    assert "dodo 0" in dataset.summary()


def test_hidden_folders_and_other_files_are_no_classes(folder):
    before = load_dataset(str(folder))
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / "readme.md").write_text("pets")
    (folder / "cat" / "notes.txt").write_text("soft")
    after = load_dataset(str(folder))
    assert after.classes == before.classes == ("cat", "dog")
    assert torch.equal(after.images, before.images)


@pytest.mark.parametrize("name", ["digit", "cifar10", "/no/such/folder", ""])
def test_unknown_name_lists_what_there_is(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"digits.*torch/NAME.*folder.*does not exist" if name else "no images"
    ):
        load_dataset(name)


def test_a_name_wins_over_a_folder_and_a_path_is_never_a_name(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    folder.rename("digits")
    assert len(load_dataset("digits")) == 1438
    assert load_dataset("./digits").classes == ("cat", "dog")
    Path("torch").mkdir()
    Path("digits").rename("torch/pets")
    with pytest.raises(DataError, match=r"'torch/pets'.*For the folder.*\./torch/pets"):
        load_dataset("torch/pets", root="data", download=False)
    assert load_dataset("./torch/pets").classes == ("cat", "dog")


def test_a_file_that_no_source_reads(tmp_path):
    (tmp_path / "notes.txt").write_text("soft")
    with pytest.raises(DataError, match=r"neither the name.*nor a folder.*notes\.txt is a file"):
        load_dataset(str(tmp_path / "notes.txt"))


def test_near_miss_is_suggested():
    with pytest.raises(DataError, match="Did you mean 'digits'"):
        load_dataset("digit")


# --- memory --------------------------------------------------------------------------------------


@pytest.fixture
def memory(monkeypatch):
    """Set the free memory in bytes."""

    def available(count):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=count))

    return available


@pytest.fixture
def decoded(monkeypatch):
    """The files whose pixels were decoded, in order."""
    files = []
    original = ImageFile.ImageFile.load

    def counted(image):
        files.append(image.filename)
        return original(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    return files


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ALHPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ALHPO_CACHE_GIB", "0")


def test_image_files_that_do_not_fit_into_memory_are_mapped_from_the_cache(split_folder, memory):
    memory(0)
    assert load_dataset(str(split_folder), image_size=224).images.shape == (12, 224, 224, 3)


def test_data_that_does_not_fit_is_refused_with_its_size(split_folder, memory, no_cache):
    memory(2 * 12 * 224 * 224 * 3)
    load_dataset(str(split_folder), image_size=224)
    memory(12 * 224 * 224 * 3)  # a fifth of it stays free
    with pytest.raises(
        DataError, match=r"15 images .* of 224 x 224 x 3 bytes.*image_size, pool_size"
    ):
        load_dataset(str(split_folder), image_size=224)


def test_data_that_does_not_fit_is_not_decoded(tmp_path, memory, decoded, no_cache):
    for split, count in (("train", 70), ("test", 80)):
        write_class(tmp_path / "x" / split / "a", [pixels(i) for i in range(count)])
    memory(int(100 * 8 * 8 * 3 / 0.8))
    with pytest.raises(DataError, match="150 images"):
        load_dataset(str(tmp_path / "x"))
    assert not decoded


@pytest.mark.parametrize("where", ["split_folder", "folder"])
def test_a_smaller_pool_fits_as_the_message_advises(where, memory, request, no_cache):
    folder = request.getfixturevalue(where)
    memory(8 * 224 * 224 * 3)
    with pytest.raises(DataError, match="pool_size"):
        load_dataset(str(folder), image_size=224)
    assert len(load_dataset(str(folder), image_size=224, pool_size=3, eval_size=1)) == 3


# --- arrays --------------------------------------------------------------------------------------

LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 1]


def stack(height=5, width=7, channels=3, n=10):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, channels)).astype(np.uint8)


def arrays(images, labels=LABELS, **settings):
    settings = {"eval_images": images[:2], "eval_labels": [0, 1]} | settings
    return ImageDataset.from_arrays(images, labels, **settings)


@pytest.mark.parametrize("channels", [1, 3])
def test_layouts_are_told_apart(channels):
    nhwc = stack(channels=channels)
    nchw = nhwc.transpose(0, 3, 1, 2)
    for images, layout in ((nhwc, "auto"), (nhwc, "NHWC"), (nchw, "auto"), (nchw, "NCHW")):
        for kind in (np.asarray, torch.tensor):
            dataset = arrays(kind(np.ascontiguousarray(images)), layout=layout)
            assert np.array_equal(dataset.images.numpy(), nhwc)
            assert np.array_equal(dataset.eval_images.numpy(), nhwc[:2])
            assert dataset.images.is_contiguous()
    assert (dataset.image_size, dataset.channels, dataset.num_classes) == ((5, 7), channels, 3)


def test_images_without_a_channel_axis():
    images = stack(channels=1)
    assert np.array_equal(arrays(images[..., 0]).images.numpy(), images)


@pytest.mark.parametrize(("height", "layout"), [(5, "NCHW"), (3, "auto")])
def test_images_without_a_channel_axis_need_no_layout(height, layout):
    images = stack(height=height, channels=1)
    assert np.array_equal(arrays(images[..., 0], layout=layout).images.numpy(), images)


@pytest.mark.parametrize("shape", [(10, 3, 8, 3), (10, 1, 8, 3), (10, 8, 8, 4), (10, 2, 8, 8)])
def test_ambiguous_layout_asks_for_it(shape):
    with pytest.raises(DataError, match="layout='NHWC' or 'NCHW'"):
        arrays(np.zeros(shape, np.uint8))


def test_ambiguous_shape_is_read_as_told():
    images = stack(height=3, width=8, channels=3)
    assert arrays(images, layout="NHWC").images.shape == (10, 3, 8, 3)
    assert arrays(images, layout="NCHW").images.shape == (10, 8, 3, 3)


@pytest.mark.parametrize(("channels", "layout"), [(4, "NHWC"), (3, "NHCW"), (3, "nchw")])
def test_channels_and_layouts_that_do_not_exist(channels, layout):
    with pytest.raises(DataError):
        arrays(stack(channels=channels), layout=layout)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int16, bool])
def test_other_types_of_pixels(dtype):
    with pytest.raises(DataError, match="uint8"):
        arrays(stack().astype(dtype))


@pytest.mark.parametrize("shape", [(10,), (10, 8), (10, 1, 8, 8, 3)])
def test_other_shapes(shape):
    with pytest.raises(DataError, match="shape"):
        arrays(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (LABELS[:9], {}, "10 images but 9 labels"),
        ([*LABELS[:9], 3], {"classes": 3}, "span 0 to 3; with 3 classes"),
        ([*LABELS[:9], -1], {}, "a label -1; expected numbers from 0"),
        ([*LABELS[:9], -1], {"classes": 3}, "span -1 to 2"),
        (LABELS, {"eval_labels": [0]}, "evaluation split .* 2 images but 1 labels"),
        (LABELS, {"eval_labels": [0, 5], "classes": 3}, "evaluation split .* span 0 to 5"),
        (LABELS, {"eval_labels": None}, "Give both, or neither"),
        (LABELS, {"eval_images": None}, "Give both, or neither"),
        (np.array(LABELS, float), {}, "expected one integer"),
        (np.array(LABELS, bool), {}, "expected one integer"),
        (np.array(LABELS).reshape(5, 2), {}, "expected one integer"),
        (["cat"] * 10, {"classes": ["a", "b"]}, "a label 'cat', but the classes are a, b"),
        (LABELS, {"classes": ["a", "b", "a"]}, "Two classes are called 'a'"),
        (LABELS, {"classes": ["a", "b", ""]}, "called ''"),
        (LABELS, {"eval_images": stack(6), "eval_labels": LABELS}, "expected one shape"),
        (None, {"eval_images": None, "eval_labels": None}, "Give the classes"),
    ],
)
def test_labels_that_do_not_fit(labels, settings, message):
    with pytest.raises(DataError, match=message):
        arrays(stack(), labels, **settings)


@pytest.mark.parametrize("labels", [[None] * 10, [[0], [1, 2]] * 5, ["a", 1] * 5], ids=str)
def test_labels_that_are_neither_numbers_nor_names(labels):
    with pytest.raises(DataError):
        arrays(stack(), labels)


def test_no_images_at_all():
    with pytest.raises(DataError, match="no images"):
        arrays(stack()[:0], np.zeros(0, int))
    with pytest.raises(DataError, match="too few"):
        ImageDataset.from_arrays(stack(n=1), [0])


def test_classes_from_labels_number_or_names():
    images = stack()
    assert arrays(images).classes == ("0", "1", "2")
    assert arrays(images, eval_labels=[0, 4]).classes == ("0", "1", "2", "4")
    assert arrays(images, classes=7).num_classes == 7
    assert arrays(images, classes=["a", "b", "c"]).classes == ("a", "b", "c")


@pytest.mark.parametrize("form", [list, np.array, torch.tensor, lambda v: np.array(v)[:, None]])
def test_the_classes_are_what_the_labels_are(form):
    dataset = arrays(stack(), form([3, 9, 7, 9, 3, 3, 10, 7, 7, 3]), eval_labels=form([7, 9]))
    assert dataset.classes == ("3", "7", "9", "10")
    assert dataset.labels.tolist() == [0, 2, 1, 2, 0, 0, 3, 1, 1, 0]
    assert dataset.eval_labels.tolist() == [1, 2]


@pytest.mark.parametrize("form", [list, np.array, lambda v: np.array(v, object)])
def test_labels_by_name(form):
    labels = form(["dog", "cat"] * 5)
    dataset = arrays(stack(), labels, eval_labels=form(["ape", "dog"]))
    assert (dataset.classes, dataset.labels.tolist()) == (("ape", "cat", "dog"), [2, 1] * 5)
    named = arrays(stack(), labels, classes=["dog", "cat", "ape"], eval_labels=["ape", "dog"])
    assert (named.classes, named.eval_labels.tolist()) == (("dog", "cat", "ape"), [2, 0])


def test_pool_that_people_will_label():
    images = stack()
    bare = ImageDataset.from_arrays(images, classes=["a", "b"])
    assert bare.labels is None and len(bare.eval_images) == 0 and len(bare) == 10
    measured = ImageDataset.from_arrays(images, eval_images=images[:3], eval_labels=[1, 0, 1])
    assert measured.num_classes == 2 and len(measured) == 10


def test_labelled_arrays_without_evaluation_images_are_divided():
    images = stack(n=20)
    dataset = ImageDataset.from_arrays(images, LABELS * 2, eval_fraction=0.25, name="mine")
    assert (dataset.name, len(dataset) + len(dataset.eval_images)) == ("mine", 20)
    assert 0 < len(dataset.eval_images) < 12
    more = ImageDataset.from_arrays(
        np.concatenate([stack(n=9)[::-1] // 2, images]), [0] * 9 + LABELS * 2, eval_fraction=0.25
    )
    assert set(dataset.identities) < set(more.identities)  # nothing moved to the other part
    assert set(dataset.eval_identities) <= set(more.eval_identities)
    truth = {image.tobytes(): label for image, label in zip(images, LABELS * 2, strict=True)}
    every = [*zip(dataset.images, dataset.labels, strict=True)]
    every += zip(dataset.eval_images, dataset.eval_labels, strict=True)
    assert {image.numpy().tobytes(): int(label) for image, label in every} == truth


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_are_numpys(channels):
    images = stack(channels=channels, n=5000, height=2, width=3) // np.uint8(3)
    dataset = arrays(images, [0] * 5000, layout="NHWC", eval_labels=[0, 0])
    mean, std = dataset.channel_statistics()
    scaled = images.astype(np.float64) / 255
    assert np.allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    assert np.allclose(std, scaled.std((0, 1, 2)), rtol=1e-9)


@pytest.mark.parametrize("value", [0, 1, 77, 200, 255])
def test_what_differs_later_in_a_constant_channel_is_not_blown_up(value):
    images = np.repeat(stack(n=1), 1000, axis=0)
    images[..., 1] = value
    images[0, 0, 0, 1] ^= 1  # nearly constant is constant too
    mean, std = arrays(images, [0] * 1000, eval_labels=[0, 0]).channel_statistics()
    assert std[1] == 1.0 and mean[1] == pytest.approx(value / 255, abs=1e-5)


# --- timm's factory ------------------------------------------------------------------------------


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.fixture
def mnist(tmp_path):
    """The files of MNIST as torchvision keeps them, with 30 and 12 images; every class but 9."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, n in (("train", 30), ("t10k", 12)):
        write_idx(raw / f"{split}-images-idx3-ubyte", pixels(n, n * 28, 28, 1).reshape(n, 28, 28))
        write_idx(raw / f"{split}-labels-idx1-ubyte", (np.arange(n) % 9).astype(np.uint8))
    return tmp_path


def test_torchvision_set_through_timm(mnist):
    dataset = load_dataset("torch/mnist", root=mnist, download=False)
    assert dataset.name == "mnist"
    assert np.array_equal(
        dataset.images[..., 0].numpy().reshape(-1, 28), pixels(30, 30 * 28, 28, 1)
    )
    assert np.array_equal(
        dataset.eval_images[..., 0].numpy().reshape(-1, 28), pixels(12, 12 * 28, 28, 1)
    )
    assert dataset.labels.tolist() == [i % 9 for i in range(30)]
    assert dataset.num_classes == 10 and dataset.channels == 1
    assert dataset.augmentation == "crop"


def test_torchvision_splits_and_subsets(mnist):
    swapped = load_dataset(
        "torch/mnist", root=mnist, train_split="test", eval_split="train", download=False
    )
    assert (len(swapped), len(swapped.eval_images)) == (12, 30)
    small = load_dataset("torch/mnist", root=str(mnist), pool_size=7, eval_size=3, image_size=14)
    again = load_dataset("torch/mnist", root=str(mnist), pool_size=7, eval_size=3, image_size=14)
    assert small.images.shape == (7, 14, 14, 1) and len(small.eval_images) == 3
    assert torch.equal(small.images, again.images)


def test_torchvision_set_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"'torch/mnist', split 'train'.*download"):
        load_dataset("torch/mnist", root=tmp_path, download=False)
    with pytest.raises(DataError, match=r"torch/nonsense.*Check the name"):
        load_dataset("torch/nonsense", root=tmp_path, download=False)


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """The files of SVHN, where 0 is written as 10; 40 and 12 images."""
    from scipy.io import savemat

    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *_: True)
    for split, n in (("train", 40), ("test", 12)):
        images = np.moveaxis(pixels(n, n * 32, 32, 3).reshape(n, 32, 32, 3), 0, -1)
        labels = (np.arange(n) % 10 + 1)[:, None].astype(np.uint8)
        savemat(tmp_path / f"{split}_32x32.mat", {"X": images, "y": labels})
    return tmp_path


def test_svhn_which_timm_leaves_out(svhn):
    dataset = load_dataset("torch/svhn", root=svhn, download=False)
    assert dataset.images.shape == (40, 32, 32, 3) and dataset.eval_images.shape[0] == 12
    assert np.array_equal(dataset.images.numpy().reshape(-1, 32, 3), pixels(40, 40 * 32, 32, 3))
    assert dataset.labels.tolist() == [(i % 10 + 1) % 10 for i in range(40)]
    assert dataset.name == "svhn" and dataset.num_classes == 10
    assert dataset.augmentation == "crop"  # a mirrored digit is none


@pytest.mark.parametrize("pool_size", [1, 2])
def test_small_subset_of_svhn_keeps_all_classes(svhn, pool_size):
    dataset = load_dataset("torch/svhn", root=svhn, download=False, pool_size=pool_size)
    assert dataset.num_classes == 10
