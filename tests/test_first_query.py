"""The picture of what a run's strategy picked first."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from alhpo import ImageDataset, RunConfig, run_experiment
from alhpo.runs.first_query import GAP, PICTURED, write_picture

TINY = {
    "model": "alhpo_toy",
    "strategy": "entropy",
    "initial_size": 12,
    "acquisition_size": 20,
    "budget": 32,
    "max_epochs": 1,
    "hyperparameters": {"batch_size": 8},
    "precision": "float32",
    "validate_fixed": False,
}


def tiles(file) -> list[np.ndarray]:
    """The images of a picture of square images; checks that white lies between them."""
    strip = np.asarray(Image.open(file))
    side = strip.shape[0]
    starts = range(0, strip.shape[1], side + GAP)
    for start in starts[1:]:
        assert (strip[:, start - GAP : start] == 255).all()
    return [strip[:, start : start + side] for start in starts]


def test_run_keeps_a_picture_of_its_first_query(few_digits, tmp_path):
    config = RunConfig.create(TINY, {"output_dir": str(tmp_path)})
    result = run_experiment(config, dataset=few_digits)
    queried = result.records[0].queried[:PICTURED]
    file = result.path / "first_query.png"
    texts = Image.open(file).text
    assert json.loads(texts["indices"]) == list(queried)
    assert json.loads(texts["classes"]) == [str(int(few_digits.labels[i])) for i in queried]
    for index, tile in zip(queried, tiles(file), strict=True):
        assert (tile == few_digits.images[index, ..., 0].numpy()).all()
    assert not list(result.path.glob(".first_query*"))


def test_picture_is_drawn_by_the_run_that_goes_on(few_digits, tmp_path, monkeypatch):
    """Killed between the record of the first query and its picture."""
    config = RunConfig.create(TINY, {"budget": 52, "output_dir": str(tmp_path / "run")})
    other = config.model_copy(update={"output_dir": str(tmp_path / "undisturbed")})
    undisturbed = run_experiment(other, dataset=few_digits)
    with monkeypatch.context() as patched:
        killed = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
        patched.setattr("alhpo.runs.first_query.write_picture", killed)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(config, dataset=few_digits)
    file = tmp_path / "run" / config.name / "first_query.png"
    assert not file.exists()
    assert len(run_experiment(config, dataset=few_digits).records) == 3
    assert file.read_bytes() == (undisturbed.path / "first_query.png").read_bytes()


def test_run_goes_on_without_a_picture(few_digits, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk is full")

    monkeypatch.setattr("alhpo.runs.first_query.write_picture", fail)
    config = RunConfig.create(TINY, {"output_dir": str(tmp_path)})
    with pytest.warns(UserWarning, match="disk is full"):
        result = run_experiment(config, dataset=few_digits)
    assert len(result.records) == 2
    assert (result.path / "run.json").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_of_grey_and_coloured_images_and_odd_names(tmp_path, channels):
    images = torch.randint(0, 256, (5, 7, 7, channels), dtype=torch.uint8)
    names = ["Kätzchen", "<b>&", "日本", "a b", '"']
    dataset = ImageDataset("odd", images, torch.arange(5), images, torch.arange(5), tuple(names))
    write_picture(tmp_path / "a.png", dataset, [4, 0, 2])
    assert json.loads(Image.open(tmp_path / "a.png").text["classes"]) == ['"', "Kätzchen", "日本"]
    for index, tile in zip([4, 0, 2], tiles(tmp_path / "a.png"), strict=True):
        assert (tile.reshape(7, 7, channels) == images[index].numpy()).all()
    write_picture(tmp_path / "b.png", dataset, [4, 0, 2])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
