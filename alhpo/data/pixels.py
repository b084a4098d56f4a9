"""One image as a viewer shows it, in 8 bits per channel.

Imports Pillow and NumPy only, as every worker process that decodes images imports it.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

#: Number of the rules below. A change of the pixels they give is a new number.
RULES = 1
#: Colour behind transparent pixels.
BACKGROUND = (255, 255, 255)
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
#: EXIF tag of the orientation, how each of its values is undone, and those that swap height and
#: width.
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SWAPPED = (5, 6, 7, 8)


class UnreadableImage(Exception):
    """An image that cannot be read. The text is the reason, without the file."""


@dataclass(frozen=True)
class ImageFacts:
    """An image file, before its pixels are decoded.

    Attributes:
        identity: SHA-256 of the file, 64 hex digits; "" if it cannot be read at all.
        height: height as shown, in pixels.
        width: width as shown, in pixels.
        grey: whether it has one channel.
        profile: whether it carries a colour profile, which is not applied.
        problem: why it is not an image; "" if it seems to be one.
    """

    identity: str
    height: int = 0
    width: int = 0
    grey: bool = False
    profile: bool = False
    problem: str = ""


def decoding_rules() -> tuple[int, str]:
    """What the pixels of a file depend on, besides the file and the shape."""
    return RULES, PIL.__version__


def inspect_file(path: str) -> ImageFacts:
    """The facts of an image file. What is wrong with it is their ``problem``, and not raised."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a Path of each file takes seconds
            content = file.read()
    except OSError as error:
        return ImageFacts("", problem=error.strerror or repr(error))
    identity = hashlib.sha256(content).hexdigest()
    try:
        with _opened(content) as image:
            height, width = image.height, image.width
            turned = _may_be_turned(image, content) and _orientation(image) in SWAPPED
            grey, profile = image.mode in GREY, "icc_profile" in image.info
    except MemoryError:  # no fault of the file
        raise
    except Exception as error:  # Pillow's readers raise whatever the damage leads to
        return ImageFacts(identity, problem=_reason(error))
    if turned:
        height, width = width, height
    return ImageFacts(identity, height, width, grey, profile)


def read_file(path: str, identity: str | None = None) -> Image.Image:
    """The image of mode L or RGB that a viewer shows of an image file, see ``as_shown``.

    Args:
        path: the file.
        identity: SHA-256 that the file should have.

    Raises:
        UnreadableImage: the file cannot be read, has pixels that 8 bits cannot hold, or another
            identity.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a Path of each file takes seconds
            content = file.read()
    except OSError as error:
        raise UnreadableImage(error.strerror or repr(error)) from error
    if identity is not None and hashlib.sha256(content).hexdigest() != identity:
        raise UnreadableImage("it changed after it was first read. Load it with verify (--verify)")
    with _opened(content) as image:
        return as_shown(image)


def decode_file(path: str, identity: str, shape: tuple[int, int, int]) -> np.ndarray:
    """The pixels of an image file, scaled to cover ``shape`` and cropped to its centre.

    Args:
        path: the file.
        identity: SHA-256 of the file.
        shape: (height, width, channels) of the result, with 1 or 3 channels.

    Returns:
        ``shape`` uint8.

    Raises:
        UnreadableImage: see ``read_file``.
    """
    return fitted(read_file(path, identity), shape)


def as_shown(image: Image.Image) -> Image.Image:
    """The image of mode L or RGB that a viewer shows.

    Turned as its EXIF orientation says. Transparent pixels lie on ``BACKGROUND``. 16-bit grey
    values are scaled to 8 bits, v * 255 / 65535, rounded. Colour profiles are not applied. Of
    several frames, the first.

    Raises:
        UnreadableImage: damaged or truncated, too many pixels, or pixels of another type.
    """
    try:
        image.load()
        turn = TURNS.get(_orientation(image))
        if turn is not None:
            image = image.transpose(turn)
        return _in_8_bits(image)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:  # as in inspect_file
        raise UnreadableImage(_reason(error)) from error


def fitted(image: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    """An image of mode L or RGB as ``shape`` uint8: scaled (bicubic) to cover, centre-cropped."""
    height, width, channels = shape
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8).reshape(shape)


def pixel_identity(pixels: Any) -> str:
    """Identity of an image without a file: SHA-256 of its shape and pixels.

    Args:
        pixels: (H, W) or (H, W, C) uint8; (H, W) is the same as (H, W, 1).
    """
    array = np.ascontiguousarray(pixels, dtype=np.uint8)
    if array.ndim == 2:
        array = array[..., None]
    return hashlib.sha256(str(array.shape).encode() + array.data.cast("B")).hexdigest()


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation; 1 if the EXIF data are damaged, as viewers ignore them then."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # as in inspect_file
        return 1


def _may_be_turned(image: Image.Image, content: bytes) -> bool:
    """Whether the size in the header may have height and width swapped."""
    if image.format == "PNG":  # Pillow decodes it for its EXIF, which may be behind the pixels
        return any(mark in content for mark in (b"eXIf", b"Raw profile", b"adobe.xmp"))
    return image.format != "TIFF"  # the size is as shown


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        if not content:
            raise UnreadableImage("the file is empty") from error
        raise UnreadableImage(
            f"not an image that Pillow reads; it begins with {content[:12]!r}"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # as in inspect_file
        raise UnreadableImage(_reason(error)) from error


def _in_8_bits(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode in TRANSPARENT or (mode in ("1", "L", "P", "RGB") and "transparency" in image.info):
        above = image.convert("RGBA")
        below = Image.new("RGBA", above.size, BACKGROUND)
        shown = Image.alpha_composite(below, above)
        return shown.convert("L" if mode in GREY else "RGB")
    if mode in ("1", "L"):
        return image.convert("L")
    if mode in ("P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"):
        return image.convert("RGB")
    if mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableImage(
                f"pixels from {values.min()} to {values.max()}; expected 8 or 16 bits per channel"
            )
        if isinstance(image.info.get("transparency"), int):  # there is no 16-bit mode with alpha
            values[values == image.info["transparency"]] = 65535
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    raise UnreadableImage(f"pixels of mode {mode}; expected 8 or 16 bits per channel")


def _reason(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0].rstrip(".")
