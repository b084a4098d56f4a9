"""Image files that are decoded when they are asked for: the same data set, learner and run."""

from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_models import TOY

import alhpo.data.file_images
from alhpo import ActiveLearner, RunConfig, load_dataset, run_experiment
from alhpo.base.errors import DataError
from alhpo.data.file_images import FileImages
from alhpo.models.timm_models import ModelSpec, build_model
from alhpo.runs.first_query import read_picture

SIDE = 128  # of the network's input: 32 images a pass
FROZEN = {"model": TOY["model"], "recipe": "frozen", "input_size": SIDE, "max_epochs": 3}
ON_CPU = {"precision": "float32", "device": "cpu"}


def save(path, seed, size, *, grey=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    shape = (height, width) if grey else (height, width, 3)
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(noise).save(path)


def folder_of(path, sizes, *, count=10, splits=True, grey=False):
    """Two classes, with an evaluation split of 2 x 3 images or without."""
    for number, name in enumerate(("cat", "dog")):
        place = path / "train" / name if splits else path / name
        for i in range(count):
            save(place / f"{i}.png", 100 * number + i, sizes[i % len(sizes)], grey=grey)
        for i in range(3 if splits else 0):
            save(path / "val" / name / f"{i}.png", 1000 + 10 * number + i, sizes[0], grey=grey)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A new cache, whose path can be changed with the returned function."""

    def use(name):
        monkeypatch.setenv("ALHPO_CACHE", str(tmp_path / name))

    use("cache")
    return use


@pytest.fixture
def weights(tmp_path):
    file = tmp_path / "toy.pt"
    torch.save(build_model(ModelSpec(TOY["model"], 2, 3, (SIDE, SIDE)), 5).state_dict(), file)
    return str(file)


@pytest.fixture
def decoded(monkeypatch):
    """The files of each time when some were decoded because they were asked for."""
    calls: list[list[str]] = []
    decode = alhpo.data.file_images.decode_files

    def counted(paths, *others):
        calls.append(list(paths))
        return decode(paths, *others)

    monkeypatch.setattr(alhpo.data.file_images, "decode_files", counted)
    return calls


@pytest.fixture
def no_room(monkeypatch, cache):
    """Memory for some images of the network's input size, and a cache for none."""

    def images(count):
        monkeypatch.setenv("ALHPO_CACHE_GIB", "0")
        free = SimpleNamespace(available=int(count * SIDE * SIDE * 3 / 0.8) + 1)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: free)

    return images


def learner_of(dataset, weights, **given):
    return ActiveLearner(dataset, weights=weights, **FROZEN | ON_CPU | given)


# --- the data set --------------------------------------------------------------------------------

FOLDERS = {
    "one size": {"sizes": [(12, 9)]},
    "several sizes": {"sizes": [(12, 9), (7, 20), (30, 30)]},
    "grey": {"sizes": [(6, 8)], "grey": True},
    "without splits": {"sizes": [(12, 9)], "splits": False},
}
ARGUMENTS = {
    "as it is": {},
    "a size": {"image_size": 5},
    "a subset": {"pool_size": 7, "eval_size": 2},
}


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
@pytest.mark.parametrize("folder", FOLDERS.values(), ids=FOLDERS)
def test_all_but_the_decoding_is_the_same(tmp_path, cache, folder, arguments):
    path = folder_of(tmp_path / "pets", **folder)
    (path / ("train/cat" if folder.get("splits", True) else "cat") / "bad.png").write_bytes(b"no")
    arguments = {"on_error": "skip"} | arguments
    one = load_dataset(str(path), **arguments)
    other = load_dataset(str(path), decode=False, **arguments)
    assert isinstance(other.images, FileImages) and isinstance(other.eval_images, FileImages)
    for name in ("images", "eval_images"):
        mine, files = getattr(one, name), getattr(other, name)
        assert tuple(mine.shape) == tuple(files.shape) and len(mine) == len(files)
        assert torch.equal(mine, files[:])
    for name in ("labels", "eval_labels"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    for name in ("identities", "eval_identities", "paths", "eval_paths", "classes", "name"):
        assert getattr(one, name) == getattr(other, name)
    assert one.notes == other.notes and one.skipped == other.skipped != ()
    assert one.summary() == other.summary()
    assert one.channel_statistics() == other.channel_statistics()
    assert (one.image_size, one.channels) == (other.image_size, other.channels)


def test_files_that_cannot_be_read_are_refused_before_anything_is_decoded(tmp_path, cache, decoded):
    path = folder_of(tmp_path / "pets", [(8, 8)])
    (path / "train" / "cat" / "bad.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"bad\.png"):
        load_dataset(str(path), decode=False)
    assert not decoded


def test_images_that_are_no_files_are_decoded():
    one, other = (load_dataset("digits", pool_size=50, decode=decode) for decode in (True, False))
    assert torch.equal(one.images, other.images)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A folder, and its decoded pool."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALHPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        path = folder_of(tmp_path_factory.mktemp("data") / "pets", [(12, 9), (7, 20)])
        yield (
            load_dataset(str(path), decode=False).images,
            {size: load_dataset(str(path), image_size=size).images.clone() for size in (6, 224)},
        )


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    index=st.one_of(
        st.lists(st.integers(-20, 19)).map(lambda rows: torch.tensor(rows, dtype=torch.int64)),
        st.slices(20).filter(lambda part: (part.step or 1) > 0),
        st.integers(-20, 19),
    ),
    size=st.sampled_from([6, 224]),
)
def test_an_index_means_what_it_means_for_a_tensor(pets, decoded, index, size):
    files, tensors = pets
    decoded.clear()
    assert torch.equal(files.at(size, size)[index], tensors[size][index])
    asked = set(
        np.atleast_1d(np.arange(20)[np.asarray(index) if torch.is_tensor(index) else index])
    )
    (call,) = decoded  # those files and no others, each once
    assert sorted(call) == sorted(files.paths[row] for row in asked)


def test_a_size_that_was_asked_for_is_kept(tmp_path, cache):
    path = folder_of(tmp_path / "pets", [(12, 9)])
    images = load_dataset(str(path), decode=False, image_size=5).images
    assert images.at(7, 7).shape == (20, 5, 5, 3)


def test_more_images_than_memory_holds_are_refused(tmp_path, no_room):
    path = folder_of(tmp_path / "pets", [(SIDE, SIDE)])
    images = load_dataset(str(path), decode=False).images
    no_room(9)
    assert len(images[3:12]) == 9
    with pytest.raises(DataError, match=r"10 images .*128 x 128 x 3 bytes.*query_subset"):
        images[3:13]


# --- a learner -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[(SIDE, SIDE)], [(12, 9), (150, 300)]], ids=str)
def test_features_are_those_of_the_decoded_images(tmp_path, cache, weights, sizes):
    """Files of any size go straight to the network's input size."""
    path = folder_of(tmp_path / "pets", sizes)
    said = []
    for name, given_ in (("a", {"image_size": SIDE}), ("b", {"decode": False})):
        cache(name)  # nothing is taken from the other's
        learner = learner_of(load_dataset(str(path), **given_), weights)
        learner.label_initial(8)
        scores = learner.fit()
        said.append((learner.predict(), scores))
    (one, scores), (other, other_scores) = said
    assert torch.equal(one.logits, other.logits) and torch.equal(one.features, other.features)
    assert scores == other_scores


@pytest.mark.parametrize("image_size", [None, 20])
def test_images_of_another_size_than_the_input(tmp_path, cache, weights, image_size):
    """A size that was asked for is kept, so that the features are bit by bit those of the decoded
    images; a size that is just the images' own is not, and they are nearly."""
    path = folder_of(tmp_path / "pets", [(20, 20)])
    features = []
    for name, decode in (("a", True), ("b", False)):
        cache(name)
        dataset = load_dataset(str(path), image_size=image_size, decode=decode)
        learner = learner_of(dataset, weights)
        learner.label_initial(8)
        learner.fit()
        features.append(learner.predict().features)
    if image_size:
        assert torch.equal(*features)
    assert torch.allclose(*features, rtol=0.05, atol=0.05)


def test_a_learner_does_all_it_does_with_decoded_images(tmp_path, cache, weights):
    path = folder_of(tmp_path / "pets", [(SIDE, SIDE)], count=20)
    seen = []
    for decode in (True, False):
        cache(str(decode))
        learner = learner_of(load_dataset(str(path), decode=decode), weights, vaal_epochs=1)
        first = learner.label_initial(8)
        configuration = {"lr": 0.01, "weight_decay": 0.01}
        trial = learner.objective()(configuration, 2, 0, tmp_path / f"trial{decode}")
        fitted = learner.fit(checkpoint_path=tmp_path / f"fit{decode}")
        queries = [
            learner.query(2, strategy=name).indices
            for name in ("entropy", "badge", "coreset", "typiclust", "random", "vaal")
        ]
        again = learner_of(load_dataset(str(path), decode=decode), weights)
        again.label_initial(8)
        again.restore(tmp_path / f"fit{decode}")
        assert torch.equal(again.predict([3, 1]).logits, learner.predict([3, 1]).logits)
        seen.append((first.indices, trial, fitted, queries, again.evaluate()))
    assert seen[0] == seen[1]


def test_each_file_is_decoded_once_and_then_not_needed(tmp_path, cache, weights, decoded):
    path = folder_of(tmp_path / "pets", [(12, 9), (7, 20)], count=40)
    dataset = load_dataset(str(path), decode=False)
    assert not decoded
    learner = learner_of(dataset, weights)
    learner.label_initial(8)
    learner.fit()
    files = [file for call in decoded for file in call]
    assert sorted(files) == sorted([*dataset.paths, *dataset.eval_paths])
    assert max(map(len, decoded)) == 32  # what is in memory at a time, of 80 images
    decoded.clear()
    for file in path.rglob("*.png"):
        file.unlink()
    again = learner_of(dataset, weights)
    again.label_initial(8)
    assert again.fit() == learner.evaluate()
    assert len(again.query(5, strategy="entropy")) == 5
    assert not decoded
    with pytest.raises(DataError, match=f"{dataset.paths[3]}.*No such file.*\n.*run again"):
        dataset.images[torch.tensor([3])]


def test_damaged_and_changed_files_are_named_when_features_are_computed(tmp_path, cache, weights):
    path = folder_of(tmp_path / "pets", [(40, 30)], splits=False)
    damaged, changed = path / "cat" / "x.jpg", path / "dog" / "0.png"
    save(damaged, 77, (60, 50))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    dataset = load_dataset(str(path), decode=False)
    save(changed, 78, (40, 30))
    with pytest.raises(DataError) as caught:
        learner_of(dataset, weights).prepare()
    text = str(caught.value)
    assert f"{damaged}: image file is truncated" in text and f"{changed}: it changed" in text
    assert text.startswith("2 files of") and "remove it from the data set; then run again" in text
    damaged.write_bytes(whole)
    learner = learner_of(load_dataset(str(path), decode=False), weights)
    learner.label_initial(8)
    assert learner.fit().n > 0


# --- a run ---------------------------------------------------------------------------------------


def run_of(tmp_path, path, weights, **given):
    config = TOY | FROZEN | {"dataset": str(path), "weights": weights, "hpo": "fixed"}
    config |= {"hyperparameters": {}, "output_dir": str(tmp_path / "runs")}
    return run_experiment(RunConfig.create(config | given))


def test_a_run_whose_images_fit_nowhere(tmp_path, weights, no_room, decoded):
    path = folder_of(tmp_path / "pets", [(300, 200), (50, 400)], count=40)
    no_room(40)
    with pytest.raises(DataError, match=r"86 images .* of 224 x 224 x 3 bytes.*ALHPO_CACHE_GIB"):
        run_of(tmp_path, path, None, recipe="network", hyperparameters={"batch_size": 8})
    assert not decoded
    result = run_of(tmp_path, path, weights)
    assert [record.n_labeled for record in result.records] == [12, 20, 28]
    files = [file for call in decoded for file in call]
    assert sorted(set(files)) == sorted(str(file) for file in path.rglob("*.png"))
    dataset = load_dataset(str(path), decode=False)
    shown = [dataset.paths[index] for index in result.records[0].queried]
    assert sorted(files) == sorted([*set(files), *shown])  # what people look at, once more
    decoded.clear()
    assert run_of(tmp_path, path, weights).resumed and not decoded


@pytest.mark.parametrize(("size", "pictured"), [((12, 9), (12, 9)), ((448, 300), (224, 150))])
def test_the_picture_of_the_first_query(tmp_path, cache, weights, size, pictured):
    path = folder_of(tmp_path / "pets", [size], count=20)
    result = run_of(tmp_path, path, weights)
    dataset = load_dataset(str(path), decode=False)
    tiles = read_picture(result.path / "first_query.png")
    assert len(tiles) == len(result.records[0].queried)
    for index, (tile, name) in zip(result.records[0].queried, tiles, strict=True):
        with Image.open(dataset.paths[index]) as file:
            expected = file.resize(pictured, Image.Resampling.BICUBIC)
        assert np.array_equal(np.asarray(tile), np.asarray(expected))
        assert f"/{name}/" in dataset.paths[index]
