"""One digest: what it tells apart, what it does not see, and the memory that it needs."""

import hashlib
import itertools
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import alhpo.base.digests
from alhpo.base.digests import digest

TYPES = ["uint8", "int8", "bool", "int64", "float16", "float32", "float64"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
ARRAYS = st.sampled_from(TYPES).flatmap(lambda name: hnp.arrays(name, SHAPES))
PARTS = ARRAYS | st.none() | st.text(max_size=3) | st.integers(-9, 9) | st.lists(st.integers(0, 2))


def plain(part):
    """What a part says: an array its type, shape and bytes, everything else itself."""
    if isinstance(part, np.ndarray):
        return ("array", str(part.dtype), part.shape, part.tobytes())
    return ("value", repr(part))


@pytest.fixture(params=[1, 3, 16, alhpo.base.digests.BLOCK])
def _blocks(request, monkeypatch):
    """Small arrays are worked on in several blocks too."""
    monkeypatch.setattr(alhpo.base.digests, "BLOCK", request.param)


@settings(max_examples=150, deadline=None)
@given(st.lists(PARTS, max_size=3), st.lists(PARTS, max_size=3))
def test_digests_are_equal_where_the_parts_are_and_only_there(one, other):
    same = list(map(plain, one)) == list(map(plain, other))
    assert (digest(*one) == digest(*other)) == same
    assert digest(*one) == digest(*one)


@settings(max_examples=150, deadline=None)
@given(ARRAYS, st.data())
def test_type_shape_and_every_element_count(array, data):
    if array.ndim:
        shape = data.draw(st.permutations(array.shape))
        assert (digest(array) == digest(array.reshape(shape))) == (tuple(shape) == array.shape)
        assert digest(array) != digest(array[None])
    same_bytes = array.view({1: "uint8", 2: "int16", 4: "int32", 8: "uint64"}[array.itemsize])
    assert (digest(array) == digest(same_bytes)) == (array.dtype == same_bytes.dtype)
    if array.size:
        position = data.draw(st.integers(0, array.size - 1))
        changed = array.copy()
        view = changed.reshape(-1)[position : position + 1].view(np.uint8)
        view ^= 1
        assert digest(array) != digest(changed)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(
    ("container", "name"),
    [*itertools.product(["array", "tensor"], TYPES), ("tensor", "bfloat16")],  # NumPy has it not
)
def test_strides_and_containers_do_not_count(name, container):
    whole = torch.arange(5 * 4 * 6 * 3).reshape(5, 4, 6, 3).to(getattr(torch, name))
    expected = digest(whole)
    for view in (
        whole.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        whole.to(memory_format=torch.channels_last),
        torch.stack([whole, whole], dim=-1)[..., 0],
    ):
        assert not view.is_contiguous()
        assert digest(view if container == "tensor" else view.numpy()) == expected
    if container == "array":
        backwards = np.flip(np.flip(whole.numpy(), (0, 2)).copy(), (0, 2))
        assert digest(backwards) == expected == digest(np.asfortranarray(whole.numpy()))
        assert digest(whole.numpy()) == expected
    expanded = torch.zeros(1, 3, dtype=whole.dtype).expand(7, 3)
    assert digest(expanded) == digest(torch.zeros(7, 3, dtype=whole.dtype))


def test_a_gradient_is_not_part_of_the_identity():
    weight = torch.nn.Parameter(torch.ones(2, 3))
    assert digest(weight) == digest(weight.data) == digest(np.ones((2, 3), dtype="float32"))


def test_boundaries_between_parts_count():
    zeros = np.zeros(4, dtype="uint8")
    assert digest(zeros, zeros) != digest(np.zeros(8, dtype="uint8"))
    assert digest(zeros[:1], zeros[:3]) != digest(zeros[:3], zeros[:1])
    assert len({digest(), digest(None), digest(None, None), digest([None])}) == 4


def test_a_known_value_and_its_length():
    """Folders on disk are compared with it: it must never change by accident."""
    whole = digest("a", torch.arange(6).reshape(2, 3), length=64)
    text = b'["value","a"]\n["array","int64",[2,3]]\n' + struct.pack("<6q", *range(6))
    assert whole == hashlib.sha256(text).hexdigest()
    assert digest("a", torch.arange(6).reshape(2, 3)) == whole[:16]


def test_what_has_no_digest_is_refused():
    with pytest.raises(TypeError, match="Python objects"):
        digest(np.array([object()]))
    with pytest.raises(TypeError):
        digest({1, 2})


PEAK = """
import sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from alhpo.outputs.adversarial import Discrimination
from alhpo.data.batches import DeviceImages, InputFormat
from alhpo.data.dataset import ImageDataset
from alhpo.base.digests import digest
from alhpo.models.timm_models import weights_hash
from alhpo.runs.data import check_dataset
from alhpo.training.trainer import Task

MIB = 2**20
form = InputFormat((0.5,) * 3, (0.5,) * 3)
images = torch.full((1280, 256, 256, 3), 7, dtype=torch.uint8)  # 240 MiB
labels = torch.zeros(len(images), dtype=torch.int64)
conv = nn.Conv2d(1, 1, 3, bias=False)
conv.weight = nn.Parameter(torch.ones(3200, 3, 3, 2200).permute(0, 3, 1, 2))  # 240 MiB
dataset = ImageDataset("x", images, labels, images[:1], labels[:1], ("a",))
cpu = torch.device("cpu")

def peak():
    line, = (l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
    return int(line.split()[1]) // 1024

for name, call in {
    "warm up": lambda: digest(images[:9].permute(3, 1, 2, 0), weights_hash(nn.Conv2d(9, 9, 3))),
    "data set": lambda: check_dataset(Path(sys.argv[1]), dataset),
    "task": lambda: Task(images, labels, None, form, None, 1, 0, "none").labeled_set,
    "images": lambda: DeviceImages(images, labels, form, cpu).digest,
    "weights": lambda: weights_hash(conv),
    "strided tensor": lambda: digest(images.permute(3, 1, 2, 0)),
    "strided array": lambda: digest(images.numpy()[:, ::-1]),
    "statistics": dataset.channel_statistics,
}.items():
    before = peak()
    call()
    print(name, peak() - before, sep=":")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells a process's peak memory")
def test_peak_memory_grows_by_less_than_a_tenth_of_the_data(tmp_path):
    """In a process of its own: neither tracemalloc nor torch sees all that is allocated."""
    command = [sys.executable, "-c", PEAK, str(tmp_path / "dataset.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown = dict(line.split(":") for line in done.stdout.splitlines())
    assert len(grown) == 8
    statistics = int(grown.pop("statistics"))
    assert {name: mib for name, mib in grown.items() if int(mib) >= 24 and name != "warm up"} == {}
    assert statistics < 400  # float64 takes eight times the data, of a block of it
