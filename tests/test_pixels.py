"""Folders of generated image files, held against Pillow and plain arithmetic."""

import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

import alhpo.data.decoding
import alhpo.data.workers
from alhpo.base.errors import DataError
from alhpo.data.lazy import LazyImages
from alhpo.data.loading import load_dataset
from alhpo.data.pixels import inspect_file

ORIENTATION = 0x0112


def values(seed, height, width, channels=3, top=256, kind=np.uint8):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, top, shape).astype(kind)


# --- an independent reader -----------------------------------------------------------------------


def shown(path):
    """(H, W) or (H, W, 3) float64: the image as a viewer shows it. Raises if there is none."""
    content = io.BytesIO(Path(path).read_bytes())  # Pillow garbles turned TIFF files that it maps
    with Image.open(content) as opened:
        opened.load()
        image = ImageOps.exif_transpose(opened)
    grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    if image.mode == "F":
        raise ValueError("not 8 or 16 bits")
    if image.mode.startswith("I"):
        array = np.asarray(image).astype(np.float64)
        if array.min() < 0 or array.max() > 65535:
            raise ValueError("not 8 or 16 bits")
        return np.round(array * 255 / 65535)
    if "A" in image.getbands() or "transparency" in image.info:
        four = np.asarray(image.convert("RGBA")).astype(np.float64)
        above = four[..., 3:] / 255
        mixed = np.round(four[..., :3] * above + 255 * (1 - above))
        return mixed[..., 0] if grey else mixed
    return np.asarray(image.convert("L" if grey else "RGB")).astype(np.float64)


def expected(path, shape):
    array = shown(path)
    if array.ndim == 2 and shape[2] == 3:
        array = np.repeat(array[..., None], 3, axis=2)
    image = Image.fromarray(array.astype(np.uint8))
    fitted = ImageOps.fit(image, (shape[1], shape[0]), Image.Resampling.BICUBIC)
    same = image.size == fitted.size
    return np.asarray(image if same else fitted).reshape(shape).astype(np.int64)


# --- generated files -----------------------------------------------------------------------------


def of_mode(mode, seed, height, width):
    """An image of a mode with random pixels."""
    match mode:
        case "1":
            return Image.fromarray(values(seed, height, width, 1) > 127)
        case "L" | "L+t":
            return Image.fromarray(values(seed, height, width, 1))
        case "LA":
            return Image.fromarray(values(seed, height, width, 2), "LA")
        case "RGB" | "RGB+t":
            return Image.fromarray(values(seed, height, width))
        case "RGBA":
            return Image.fromarray(values(seed, height, width, 4))
        case "P" | "P+t":
            return of_mode("RGB", seed, height, width).quantize(8)
        case "CMYK" | "YCbCr":
            return of_mode("RGB", seed, height, width).convert(mode)
        case "I;16":
            return Image.fromarray(values(seed, height, width, 1, 65536, np.uint16))
        case "I":
            return Image.fromarray(values(seed, height, width, 1, 65536, np.int32))
        case "I too large":
            return Image.fromarray(values(seed, height, width, 1, 9, np.int32) + 65530)
        case "I negative":
            return Image.fromarray(values(seed, height, width, 1, 9, np.int32) - 9)
        case "F":
            return Image.fromarray(values(seed, height, width, 1).astype(np.float32) / 255)
    raise AssertionError(mode)


FORMATS = {
    "PNG": ("1", "L", "L+t", "LA", "P", "P+t", "RGB", "RGB+t", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": (
        *("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"),
        *("I;16", "I", "F", "I too large", "I negative"),
    ),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("1", "L", "P", "P+t"),
}
ENDINGS = {
    "PNG": (".png", ".PNG"),
    "JPEG": (".jpg", ".JPG", ".Jpeg", ".jfif"),
    "WEBP": (".webp", ".WebP"),
    "TIFF": (".tif", ".TIFF"),
    "BMP": (".bmp",),
    "GIF": (".gif", ".GIF"),
}
TURNED = ("PNG", "JPEG", "WEBP", "TIFF")
GREY_FORMATS = [
    *[("PNG", mode) for mode in ("1", "L", "L+t", "LA", "I;16")],
    *[("JPEG", "L"), ("TIFF", "I"), ("TIFF", "LA"), ("BMP", "L"), ("GIF", "L")],
]
ALL_FORMATS = [(name, mode) for name, modes in FORMATS.items() for mode in modes]


def written(name, mode, seed, height, width, orientation=1):
    """The content of a file that shows ``height`` x ``width`` pixels."""
    if orientation >= 5:
        height, width = width, height
    image = of_mode(mode, seed, height, width)
    buffer = io.BytesIO()
    extra = {}
    if mode.endswith("+t"):
        corner = image.getpixel((0, 0))
        extra["transparency"] = corner if name != "GIF" else int(corner)
    if orientation != 1 and name in TURNED:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        extra["exif"] = exif
    if name == "WEBP":
        extra["lossless"] = True
    image.save(buffer, name, **extra)
    return buffer.getvalue()


@dataclass(frozen=True)
class File:
    """A file to write: its place, its content, and whether it belongs to the data set."""

    place: str
    content: bytes
    read: bool = True


STEMS = ("a", "two words", "ünï", "日本語", "x.y", "#1", "50%", "it's", "-o", "{b}", "tab\tname")
FOLDERS = ("", "deep/", "2024/january ü/")
HIDDEN = (".hidden/", "__MACOSX/", ".ipynb_checkpoints/", ".git/x/", "__MACOSX/x/")
LINKS = ("none", "file", "folder", "to the root", "to the class", "to itself", "to nothing")


@st.composite
def folders(draw):
    """Files of a data set of the classes cat and dog, and the links in it."""
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    formats = draw(st.sampled_from([ALL_FORMATS, ALL_FORMATS, GREY_FORMATS]))
    plain = written("PNG", "L" if formats is GREY_FORMATS else "RGB", 10**6, height, width)
    other = written("PNG", "L" if formats is GREY_FORMATS else "RGB", 10**6 + 1, height, width)
    files = [File("cat/0 first.png", plain)]
    if plain != other:
        files.append(File("dog/0 second.png", other))
    for number in range(draw(st.integers(0, 7))):
        name, mode = draw(st.sampled_from(formats))
        content = written(name, mode, number, height, width, draw(st.integers(1, 8)))
        stem, ending = draw(st.sampled_from(STEMS)), draw(st.sampled_from(ENDINGS[name]))
        folder = draw(st.sampled_from(("cat/", "dog/"))) + draw(st.sampled_from(FOLDERS))
        damage = draw(
            st.sampled_from((*["none"] * 6, "cut", "empty", "page", "bomb", "other size"))
        )
        if damage == "cut":
            content = content[: len(content) * draw(st.integers(5, 95)) // 100]
        elif damage == "empty":
            content = b""
        elif damage == "page":
            content = b"<!DOCTYPE html><title>404</title>"
        elif damage == "bomb":
            content = written("PNG", "RGB", number, 40, 40)
        elif damage == "other size":
            content = written(name, mode, number, height + 1, width)
        files.append(File(f"{folder}{number} {stem}{ending}", content))
    for number in range(draw(st.integers(0, 2))):
        where = draw(st.sampled_from(("", "cat/", "dog/deep/"))) + draw(st.sampled_from(HIDDEN))
        content = draw(st.sampled_from((plain, b"", b"<html>")))
        files.append(File(f"{where}{number}.jpg", content, read=False))
    if draw(st.booleans()):
        files.append(File("cat/._0 first.png", b"\0\5\x16\7", read=False))
        files.append(File("dog/.DS_Store", b"\0", read=False))
    return files, draw(st.lists(st.sampled_from(LINKS), max_size=3, unique=True))


def link(kind, root, outside):
    """Make a link in the data set; the files that are read through it, below ``root``."""
    if kind == "file":
        outside.mkdir(exist_ok=True)
        (outside / "one").write_bytes(written("PNG", "RGB", 77, 3, 4))
        (root / "dog" / "link.png").symlink_to(outside / "one")
        return ["dog/link.png"]
    if kind == "folder":
        (outside / "more").mkdir(parents=True)
        (outside / "more" / "two.bmp").write_bytes(written("BMP", "RGB", 78, 3, 4))
        (root / "cat" / "linked").symlink_to(outside / "more")
        return ["cat/linked/two.bmp"]
    if kind == "to nothing":
        (root / "cat" / "gone.jpg").symlink_to(outside / "gone.jpg")
        return ["cat/gone.jpg"]
    if kind == "to the root":
        (root / "cat" / "loop").symlink_to(root)
    elif kind == "to the class":
        (root / "dog" / "loop").symlink_to(Path("..") / "dog")
    elif kind == "to itself":
        (root / "dog" / "self.png").symlink_to("self.png")
        return ["dog/self.png"]
    return []


def everything(dataset):
    """Pixels and label of each image by its file."""
    assert len(dataset.paths) == len(dataset.images) == len(dataset.labels)
    found = {
        path: (image.numpy(), dataset.classes[label])
        for paths, images, labels in (
            (dataset.paths, dataset.images, dataset.labels),
            (dataset.eval_paths, dataset.eval_images, dataset.eval_labels),
        )
        for path, image, label in zip(paths, images, labels, strict=True)
    }
    assert len(found) == len(dataset.images) + len(dataset.eval_images)
    return found


def same(one, other):
    assert one.paths == other.paths and one.eval_paths == other.eval_paths
    assert one.skipped == other.skipped and one.notes == other.notes
    assert one.identities == other.identities
    assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    assert torch.equal(one.eval_images, other.eval_images)
    assert torch.equal(one.eval_labels, other.eval_labels)


@pytest.fixture(scope="module")
def _patched():
    """A low limit of pixels; Pillow's warning below twice the limit is not of interest."""
    with mock.patch.object(Image, "MAX_IMAGE_PIXELS", 300):
        yield


@pytest.mark.usefixtures("_patched")
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(folders(), st.sampled_from([None, None, 5]))
def test_images_are_what_a_viewer_shows(folder, image_size):
    files, links = folder
    with (
        tempfile.TemporaryDirectory() as temporary,
        mock.patch.dict(os.environ, {"ALHPO_CACHE": f"{temporary}/cache"}),
    ):
        root = Path(temporary, "pets")
        for file in files:
            path = root / file.place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.content)
            os.utime(path, (10**9, 10**9))
        (root / "dog").mkdir(exist_ok=True)
        places = [file.place for file in files if file.read]
        for kind in links:
            places += link(kind, root, Path(temporary, "outside"))
        check_folder(root, places, image_size)


def check_folder(root, places, image_size):
    good, bad = {}, set()
    for place in places:
        path = str(root / place)
        try:
            good[path] = shown(path)
        except Exception:
            bad.add(path)
    same_content: dict = {}
    for path in sorted(good):
        same_content.setdefault(Path(path).read_bytes(), []).append(path)
    for first, *others in same_content.values():
        if len({Path(path).relative_to(root).parts[0] for path in (first, *others)}) > 1:
            bad |= {first, *others}
        for path in (first, *others) if first in bad else others:
            del good[path]
    arguments: dict = {"image_size": image_size, "eval_fraction": 0.5}
    if bad:
        with pytest.raises(DataError) as caught:
            load_dataset(str(root), **arguments)
        assert {path for path in bad if f"\n  {path}: " in str(caught.value)} == bad
        assert str(caught.value).count("\n  ") == len(bad)
    try:
        dataset = load_dataset(str(root), on_error="skip", **arguments)
    except DataError as error:  # what is damaged behind the header may be all of the pool
        few = "too few" in str(error) or "has no images" in str(error)
        assert (few and len(good) < 2) or ("No image of the pool" in str(error) and bad)
        return
    assert dataset.classes == ("cat", "dog")
    assert {path for path, _ in dataset.skipped} == bad
    assert all(reason and "\n" not in reason for _, reason in dataset.skipped)
    found = everything(dataset)
    assert set(found) == set(good)
    grey = all(array.ndim == 2 for array in good.values())
    sizes = {good[path].shape[:2] for path in dataset.paths}
    height, width = sizes.pop() if len(sizes) == 1 else (224, 224)
    shape = (image_size or height, image_size or width, 1 if grey else 3)
    assert (*dataset.image_size, dataset.channels) == shape
    for path, (image, label) in found.items():
        assert label == Path(path).relative_to(root).parts[0]
        exact = good[path].shape[:2] == shape[:2]
        difference = np.abs(image.astype(np.int64) - expected(path, shape)).max()
        assert difference <= (1 if exact else 3), path
    with mock.patch.object(
        alhpo.data.decoding, "decode_files", side_effect=AssertionError("decoded again")
    ) as decoded:
        if not bad:
            same(load_dataset(str(root), on_error="skip", **arguments), dataset)
            decoded.assert_not_called()
    same(load_dataset(str(root), on_error="skip", **arguments), dataset)
    same(load_dataset(str(root), on_error="skip", verify=True, **arguments), dataset)


# --- by example ----------------------------------------------------------------------------------


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def loaded(folder, **arguments):
    """Pixels of each image by the name of its file."""
    dataset = load_dataset(str(folder), **arguments)
    return {Path(path).name: image for path, (image, _) in everything(dataset).items()}


@pytest.fixture
def pets(tmp_path):
    """Two classes of four 4 x 6 colour images, with an evaluation split of two."""
    for split, count in (("train", 4), ("val", 1)):
        for number in range(count):
            for seed, name in enumerate(("cat", "dog")):
                content = written("PNG", "RGB", 100 * count + 10 * number + seed, 4, 6)
                write(tmp_path / "pets" / split / name / f"{number}.png", content)
    return tmp_path / "pets"


@pytest.mark.parametrize("mode", FORMATS["TIFF"][:10])
@pytest.mark.parametrize("orientation", [2, 6])
def test_a_file_read_alone_is_the_file_read_with_others(tmp_path, mode, orientation):
    path = write(tmp_path / "x.tif", written("TIFF", mode, 1, 4, 6, orientation))
    image, label = LazyImages.of_files("x", [path], [3]).get(0)
    array = np.asarray(image).astype(np.int64)
    assert label == 3 and np.abs(array - shown(path)).max() <= 1


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_data_turn_nothing(pets):
    image = of_mode("RGB", 5, 4, 6)
    for name, exif in (("header", b"Exif\0\0MM nonsense"), ("short", b"Exif\0\0MM\0*\0\0\0\x08\0")):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", exif=exif)
        path = write(pets / "train" / "cat" / f"{name}.jpg", buffer.getvalue())
        facts = inspect_file(path)
        assert (facts.height, facts.width, facts.problem) == (4, 6, "")
    dataset = load_dataset(str(pets))
    assert len(dataset) == 10 and dataset.image_size == (4, 6)


def test_an_orientation_that_does_not_exist_turns_nothing(pets):
    for orientation in (0, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        of_mode("RGB", orientation, 4, 6).save(
            pets / "train" / "cat" / f"o{orientation}.png", exif=exif
        )
        image = loaded(pets)[f"o{orientation}.png"]
        assert np.array_equal(image, np.asarray(of_mode("RGB", orientation, 4, 6)))


def test_the_first_frame_of_several(pets):
    frames = [of_mode("RGB", seed, 4, 6).convert("P", palette=Image.Palette.WEB) for seed in (1, 2)]
    for ending in ("gif", "tif", "webp", "png"):
        path = pets / "train" / "cat" / f"two.{ending}"
        extra = {"lossless": True} if ending == "webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], **extra)
    found = loaded(pets)
    first = np.asarray(frames[0].convert("RGB"))
    assert all(np.array_equal(found[f"two.{ending}"], first) for ending in ("gif", "tif", "webp"))


def test_a_transparent_grey_value_of_16_bits_is_background(tmp_path):
    array = np.array([[0, 1000, 65535]], np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", transparency=1000)
    for number in range(2):
        write(tmp_path / "a" / f"{number}.png", buffer.getvalue())
    other = io.BytesIO()
    Image.fromarray(array[:, ::-1].copy()).save(other, "PNG")
    write(tmp_path / "a" / "opaque.png", other.getvalue())
    found = loaded(tmp_path)
    assert found["0.png"].ravel().tolist() == [0, 255, 255]
    assert found["opaque.png"].ravel().tolist() == [255, 4, 0]


def test_processes_decode_as_threads_do(pets, tmp_path, monkeypatch):
    write(pets / "train" / "cat" / "turned.jpg", written("JPEG", "RGB", 1, 4, 6, 6))
    write(pets / "train" / "cat" / "unié \udcff.webp", written("WEBP", "RGBA", 2, 4, 6, 3))
    write(pets / "train" / "dog" / "empty.png", b"")
    write(pets / "train" / "dog" / "cut.png", written("PNG", "RGB", 3, 4, 6)[:60])
    results = []
    for many in (10**6, 2):
        monkeypatch.setenv("ALHPO_CACHE", str(tmp_path / f"cache{many}"))
        monkeypatch.setattr(alhpo.data.workers, "MANY", many)
        results.append(load_dataset(str(pets), on_error="skip"))
    same(*results)
    assert len(results[0].skipped) == 2 and len(results[0]) == 10


def test_processes_use_the_limits_and_modules_of_this_one(pets, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "json.py").write_text("raise SystemExit('a stranger')")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(alhpo.data.workers, "MANY", 2)
    monkeypatch.setattr("sys.path", [*__import__("sys").path, tmp_path])
    assert len(load_dataset(str(pets))) == 8
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(DataError, match="decompression bomb"):
        load_dataset(str(pets), verify=True)


def test_a_larger_limit_of_pixels_holds_at_once(pets, monkeypatch):
    for path in pets.rglob("*.png"):
        os.utime(path, (10**9, 10**9))
    with monkeypatch.context() as low:
        low.setattr(Image, "MAX_IMAGE_PIXELS", 4)
        with pytest.raises(DataError, match="decompression bomb"):
            load_dataset(str(pets))
    assert len(load_dataset(str(pets))) == 8


def test_all_bombs_and_truncated_files_are_named_at_once(pets, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    bad = [
        write(pets / "train" / "cat" / "bomb.png", written("PNG", "1", 1, 40, 40)),
        write(pets / "train" / "dog" / "float.tif", written("TIFF", "F", 1, 4, 6)),
        write(pets / "val" / "dog" / "cut.webp", written("WEBP", "RGB", 1, 4, 6)[:40]),
        write(pets / "val" / "dog" / "page.jpg", b"<html>"),
    ]
    with pytest.raises(DataError) as caught:
        load_dataset(str(pets))
    assert [path for path in bad if f"\n  {path}: " in str(caught.value)] == bad
    assert str(caught.value).startswith("4 files of ")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_damaged_file_decides_neither_size_nor_colours(tmp_path, split):
    for place in ("train/a/1", "train/a/2", "val/a/1"):
        write(tmp_path / f"{place}.png", written("PNG", "L", len(place), 4, 6))
    write(tmp_path / split / "a" / "cut.png", written("PNG", "RGB", 1, 9, 9)[:-40])
    dataset = load_dataset(str(tmp_path), on_error="skip")
    assert (*dataset.image_size, dataset.channels, len(dataset.skipped)) == (4, 6, 1, 1)


def test_too_few_images_because_the_others_are_damaged(tmp_path):
    write(tmp_path / "a" / "1.png", written("PNG", "L", 1, 4, 6))
    bad = write(tmp_path / "a" / "2.png", b"")
    with pytest.raises(DataError, match="too few") as caught:
        load_dataset(str(tmp_path))
    assert f"{bad}: the file is empty" in str(caught.value)


def test_nothing_but_damage_in_both_splits_is_named(tmp_path):
    bad = [write(tmp_path / split / "a" / "1.png", b"") for split in ("train", "val")]
    with pytest.raises(DataError) as caught:
        load_dataset(str(tmp_path))
    assert all(f"{path}: " in str(caught.value) for path in bad)


def test_links_that_lead_nowhere_are_named(pets):
    for name, target in (("gone.jpg", "nowhere.jpg"), ("self.png", "self.png")):
        (pets / "train" / "cat" / name).symlink_to(target)
    (pets / "train" / "cat" / "gone.txt").symlink_to("nowhere.txt")
    dataset = load_dataset(str(pets), on_error="skip")
    assert [Path(path).name for path, _ in dataset.skipped] == ["gone.jpg", "self.png"]


def test_links_to_what_holds_the_data_set_are_not_followed(pets):
    before = load_dataset(str(pets))
    for number, target in enumerate((pets, pets / "train", pets / "train" / "cat", pets.parent)):
        (pets / "train" / "cat" / f"loop{number}").symlink_to(target)
    after = load_dataset(str(pets))
    assert after.paths == before.paths and torch.equal(after.images, before.images)


def test_a_class_that_is_a_link(pets, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (pets / "train" / "cat").rename(elsewhere)
    (pets / "train" / "cat").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(pets)
    dataset = load_dataset(str(pets))
    assert dataset.classes == ("cat", "dog") and torch.bincount(dataset.labels).tolist() == [4, 4]


def test_a_colour_profile_is_noted_and_not_applied(pets):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    before = loaded(pets)["0.png"]
    image = of_mode("RGB", 5, 4, 6)
    for ending in ("png", "webp", "tif"):
        extra = {"lossless": True} if ending == "webp" else {}
        image.save(pets / "train" / "cat" / f"p.{ending}", icc_profile=profile, **extra)
    dataset = load_dataset(str(pets))
    assert [note for note in dataset.notes if "3 images of the pool carry a colour profile" in note]
    found = loaded(pets)
    assert np.array_equal(found["0.png"], before)
    assert all(np.array_equal(found[f"p.{e}"], np.asarray(image)) for e in ("png", "webp", "tif"))


def test_copies_are_noted(pets):
    def notes():
        return [note for note in load_dataset(str(pets)).notes if "cop" in note or "there" in note]

    assert not notes()
    content = (pets / "train" / "cat" / "0.png").read_bytes()
    write(pets / "train" / "cat" / "again.png", content)
    assert len(notes()) == 1 and "1 file left out" in notes()[0]
    write(pets / "val" / "cat" / "again.png", content)
    assert len(notes()) == 2 and "evaluation split are copies of pool images" in notes()[1]
    write(pets / "train" / "dog" / "again.png", content)
    with pytest.raises(DataError, match=r"dog/again\.png: labelled 'dog', and a file"):
        load_dataset(str(pets))


def test_formats_that_are_not_read_are_named_with_their_counts(pets):
    for name in ("1.heic", "2.HEIC", "3.avif"):
        write(pets / "train" / "cat" / name, b"x")
    write(pets / "train" / "dog" / ".4.heic", b"x")
    dataset = load_dataset(str(pets))
    assert len(dataset) == 8
    assert [note for note in dataset.notes if "1 .avif, 2 .heic" in note]


def test_a_lone_odd_sized_file_in_the_pool_decides_and_in_the_evaluation_split_does_not(pets):
    odd = write(pets / "val" / "cat" / "odd.png", written("PNG", "RGB", 1, 9, 9))
    assert load_dataset(str(pets)).image_size == (4, 6)
    Path(odd).rename(pets / "train" / "cat" / "odd.png")
    assert load_dataset(str(pets)).image_size == (224, 224)


def test_a_turned_file_has_the_size_that_is_shown(pets):
    png = PngImagePlugin.PngInfo()
    png.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    of_mode("RGB", 1, 6, 4).save(pets / "train" / "cat" / "xmp.png", pnginfo=png)
    write(pets / "train" / "cat" / "exif.webp", written("WEBP", "RGB", 2, 4, 6, 8))
    assert load_dataset(str(pets)).image_size == (4, 6)
    assert np.array_equal(loaded(pets)["xmp.png"], np.rot90(of_mode("RGB", 1, 6, 4), -1))


@pytest.mark.parametrize("where", ["Image.open", "PngImagePlugin.PngImageFile.getexif"])
def test_memory_that_runs_out_is_no_fault_of_a_file(pets, where):
    with mock.patch(f"PIL.{where}", side_effect=MemoryError), pytest.raises(MemoryError):
        load_dataset(str(pets), on_error="skip")


def test_a_process_that_is_killed_is_named(pets, monkeypatch):
    monkeypatch.setattr(alhpo.data.workers, "MANY", 1)
    monkeypatch.setattr(alhpo.data.workers.sys, "executable", "/bin/false")
    with pytest.raises(DataError, match=r"ended with status 1 .*try again"):
        load_dataset(str(pets))
