"""MedMNIST: medical images of 28, 64, 128 or 224 pixels per side, one .npz file per set and size.

Yang et al. (2023), MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image
classification, Scientific Data 10.
"""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from alhpo.base.errors import DataError
from alhpo.base.schema import suggestion
from alhpo.data.sources.npz import npz_size, read_npz, splits_of
from alhpo.data.sources.registry import register_data_source
from alhpo.data.sources.source import DatasetSize, SourceData, SourceOptions, download_lock

#: The page of the files.
PAGE = "https://zenodo.org/records/10519652"
#: The folder of MedMNIST's own package.
PACKAGE_FOLDER = Path("~/.medmnist")
#: Sides in pixels.
SIZES = (28, 64, 128, 224)


@functools.cache
def medmnist_sets() -> dict[str, dict[str, Any]]:
    """Channels, images of each split, MD5 of each size, and classes of every set, by its name."""
    text = (resources.files("alhpo.data.sources") / "medmnist.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def _size(options: SourceOptions) -> DatasetSize | None:
    name, file = _flag(options), _file_there(options)
    facts = medmnist_sets()[name]
    if file is not None:
        return npz_size(file, options, facts["classes"])
    pool, evaluation = (facts["images"][split] for split in splits_of(options))
    side = _side(options)
    return DatasetSize(pool, evaluation, (side, side, facts["channels"]), len(facts["classes"]))


@register_data_source("medmnist/FLAG", size=_size)
def medmnist(options: SourceOptions) -> SourceData:
    """A set of MedMNIST in the size ``options.image_size``, else in 28 pixels.

    Raises:
        DataError: there is no such set, it is multi-label or 3-D, or its file is neither there nor
            to be downloaded.
    """
    name = _flag(options)
    splits_of(options)
    file = _file_there(options) or _downloaded(options)
    return read_npz(file, options, medmnist_sets()[name]["classes"], _augmentation(name))


def _size_of_file(options: SourceOptions) -> DatasetSize | None:
    return npz_size(options.path, options, _classes_of_file(options.path))


@register_data_source(".npz", size=_size_of_file)
def npz_file(options: SourceOptions) -> SourceData:
    """The file at ``options.path``. One with the name of a MedMNIST set has the set's classes.

    Raises:
        DataError: see ``read_npz``.
    """
    name = _set_of_file(options.path)
    return read_npz(options.path, options, _classes_of_file(options.path), _augmentation(name))


def _classes_of_file(file: Path) -> list[str] | None:
    name = _set_of_file(file)
    return medmnist_sets()[name]["classes"] if name in medmnist_sets() else None


def _set_of_file(file: Path) -> str:
    """The set that the name of a file names: "pathmnist" of "pathmnist_64.npz"."""
    name, _, side = file.stem.lower().rpartition("_")
    return name if name and side in map(str, SIZES) else file.stem.lower()


def _augmentation(name: str) -> str:
    """Left and right organs are classes, which a flip would swap."""
    organs = name.startswith("organ") and name in medmnist_sets()
    return "crop" if organs else "crop-flip"


def _flag(options: SourceOptions) -> str:
    name, known = options.member.lower(), medmnist_sets()
    if name in known:
        return name
    if name == "chestmnist":
        raise DataError(
            f"Data set {options.name!r} is multi-label, with 14 labels per image. alhpo classifies "
            "one label."
        )
    if name.endswith("mnist3d"):
        raise DataError(f"Data set {options.name!r} has 3-D images. alhpo classifies 2-D images.")
    raise DataError(
        f"There is no data set {options.name!r}.{suggestion(name, known)} Legal: medmnist/ and "
        f"{', '.join(known)}."
    )


def _side(options: SourceOptions) -> int:
    return options.image_size if options.image_size in SIZES else SIZES[0]


def _file_name(options: SourceOptions) -> str:
    side = _side(options)
    return f"{_flag(options)}.npz" if side == SIZES[0] else f"{_flag(options)}_{side}.npz"


def _file_there(options: SourceOptions) -> Path | None:
    folders = [options.root]
    if options.given_root is None:
        folders.append(PACKAGE_FOLDER.expanduser())
    files = [folder / _file_name(options) for folder in folders]
    return next((file for file in files if file.is_file()), None)


def _downloaded(options: SourceOptions) -> Path:
    from torchvision.datasets.utils import download_url

    name, root = _file_name(options), options.root
    advice = (
        f"Download {name} from {PAGE} into {root}, or set root (--data-dir) to the folder that "
        "has it"
    )
    if not options.download:
        raise DataError(f"{root / name} is not there. {advice}, or allow the download.")
    part = f".{name}.part"
    md5 = medmnist_sets()[_flag(options)]["md5"][_side(options)]
    try:
        with download_lock(options):
            if not (root / name).is_file():  # another process may have waited before
                download_url(f"{PAGE}/files/{name}?download=1", str(root), part, md5)
                (root / part).replace(root / name)
    except Exception as error:  # of the network, the disk, or another MD5
        raise DataError(f"{name} could not be downloaded: {error!r}. {advice}.") from error
    return root / name
