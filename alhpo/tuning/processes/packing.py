"""An objective as a file that several processes read: its arrays lie there once for all of them.

The file has no name, and goes with the last process that has it open. Functions and classes of the
user's script are sent by value (cloudpickle), because the script is not run again elsewhere.
"""

from __future__ import annotations

import io
import mmap
import pickle
import tempfile
from collections.abc import Sequence
from typing import IO, Any

import cloudpickle
import torch

#: Bytes from which on arrays and tensors are mapped from the file instead of copied.
LARGE = 2**16
#: Where they begin in the file: at multiples of this.
ALIGNMENT = 64

#: Places in the file, each from its first byte to the one after its last.
Spans = Sequence[tuple[int, int]]


def pack(value: Any) -> tuple[IO[bytes], Spans]:
    """Write a value to a file without a name.

    Returns:
        The file, and where in it the arrays are and, last, the rest.

    Raises:
        Exception: of any kind, from what cannot be pickled.
        OSError: there is no room for temporary files.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as processes may start
    spans: list[tuple[int, int]] = []

    def write(content: Any) -> None:
        file.seek(-file.tell() % ALIGNMENT, io.SEEK_CUR)
        start = file.tell()
        file.write(content)
        spans.append((start, file.tell()))

    def aside(buffer: pickle.PickleBuffer) -> bool:
        """Write a large buffer to the file; whether it is to stay with the rest."""
        with buffer.raw() as content:
            small = content.nbytes < LARGE
            if not small:
                write(content)
        return small

    rest = io.BytesIO()
    _Pickler(rest, buffer_callback=aside).dump(value)
    write(rest.getbuffer())
    file.flush()
    return file, spans


def unpack(file: int, spans: Spans) -> Any:
    """Read what ``pack`` wrote. Changes of its arrays are private to this process.

    Args:
        file: descriptor of the file.
        spans: as returned by ``pack``.
    """
    mapped = memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_COPY))
    *buffers, rest = (mapped[start:end] for start, end in spans)
    return pickle.loads(rest, buffers=buffers)


class _Pickler(cloudpickle.Pickler):
    """Also keeps the content of tensors apart, as NumPy's arrays do themselves."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is torch.Tensor and _is_plain(obj) and obj.nbytes >= LARGE:
            content = pickle.PickleBuffer(obj.reshape(-1).view(torch.uint8).numpy().data)
            return _tensor, (content, obj.dtype, tuple(obj.shape))
        return super().reducer_override(obj)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is no more than its numbers, one after the other in memory."""
    dense = tensor.device.type == "cpu" and tensor.layout == torch.strided
    simple = dense and not (tensor.requires_grad or tensor.is_quantized or tensor.is_complex())
    return simple and tensor.is_contiguous() and not tensor.is_neg()


def _tensor(content: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.frombuffer(content, dtype=dtype).view(shape)
