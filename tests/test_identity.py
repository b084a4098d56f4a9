"""Labels stay with their image, whatever happens to files, processes and places."""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from PIL import Image

from alhpo import ActiveLearner, ImageDataset, load_dataset
from alhpo.base.errors import DataError

CLASSES = ("cat", "dog", "emu")
SIDE = 8


def write(file: Path, number: int) -> None:
    """An image that is told from every other by its number."""
    file.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE)).astype(np.uint8)
    Image.fromarray(array).save(file)


def learner_of(photos: Path, session: Path) -> ActiveLearner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # images that are missing are said
        dataset = load_dataset(str(photos), classes=CLASSES)
        return ActiveLearner(dataset, "alhpo_toy", "random", path=session, max_epochs=1)


class FilesComeAndGo(RuleBasedStateMachine):
    """``content`` is the model: which image (a number) is in which file; ``told`` its labels."""

    @initialize()
    def start(self):
        self.folder = tempfile.TemporaryDirectory()
        self.photos = Path(self.folder.name, "photos")
        self.session = Path(self.folder.name, "session")
        self.content, self.told, self.numbers = {}, {}, 0
        for _ in range(4):
            self.add("p")
        self.open()

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def open(self):
        self.learner = learner_of(self.photos, self.session)

    def number_of(self, index: int) -> int:
        pixels = self.learner.dataset.images[index, ..., 0].numpy()
        return next(
            number
            for number in range(self.numbers)
            if np.array_equal(
                pixels, np.random.default_rng(number).integers(0, 256, (SIDE, SIDE), dtype=np.int64)
            )
        )

    @rule(prefix=st.sampled_from(["a", "p", "z"]))
    def add(self, prefix):
        file = self.photos / f"{prefix}{self.numbers}.png"
        write(file, self.numbers)
        self.content[file] = self.numbers
        self.numbers += 1

    @precondition(lambda self: self.content)
    @rule(data=st.data(), where=st.sampled_from(["", "A", "z/y"]), again=st.booleans())
    def move_or_copy(self, data, where, again):
        file = data.draw(st.sampled_from(sorted(self.content)))
        target = (
            self.photos / where / f"{data.draw(st.integers(0, 99)):02d}_{len(self.content)}.png"
        )
        if where or target.exists():
            target = self.photos / f"{where.replace('/', '_')}{target.name}"
        if target.exists():
            return
        (shutil.copy2 if again else shutil.move)(file, target)
        self.content[target] = self.content[file]
        if not again:
            del self.content[file]

    @precondition(lambda self: len(self.content) > 1)
    @rule(data=st.data())
    def remove(self, data):
        file = data.draw(st.sampled_from(sorted(self.content)))
        file.unlink()
        del self.content[file]

    @precondition(lambda self: self.content)
    @rule(data=st.data())
    def change(self, data):
        """Another image under the same name."""
        file = data.draw(st.sampled_from(sorted(self.content)))
        write(file, self.numbers)
        self.content[file] = self.numbers
        self.numbers += 1

    @rule(swap=st.data())
    def swap_two_names(self, swap):
        if len(self.content) < 2:
            return
        one, other = swap.draw(
            st.lists(st.sampled_from(sorted(self.content)), min_size=2, max_size=2, unique=True)
        )
        one.rename(one.with_suffix(".tmp"))
        other.rename(one)
        one.with_suffix(".tmp").rename(other)
        self.content[one], self.content[other] = self.content[other], self.content[one]

    @rule(torn=st.booleans())
    def kill_and_resume(self, torn):
        if torn and (self.session / "labels.jsonl").exists():
            with (self.session / "labels.jsonl").open("ab") as file:
                file.write(b'{"event":"tell","images":["')
        self.open()

    @rule(label=st.sampled_from(CLASSES))
    def label_an_image(self, label):
        available = self.learner.pool.available
        if len(available):
            (index,) = self.learner.ask_initial(1).indices
            self.learner.tell([index], [label])
            identity = self.learner.dataset.identities[index]
            self.told[identity] = (self.number_of(index), label)

    @invariant()
    def every_label_is_with_its_image(self):
        if not hasattr(self, "told"):
            return
        fresh = learner_of(self.photos, self.session)
        known = dict(zip(fresh.pool.labeled.tolist(), fresh.pool.labels.tolist(), strict=True))
        here = fresh.dataset.identities
        expected = {
            identity: CLASSES.index(label)
            for identity, (_, label) in self.told.items()
            if identity in here
        }
        assert {here[index]: label for index, label in known.items()} == expected
        for index in known:  # the identity is that of the pixels that were labelled
            number, _ = self.told[here[index]]
            assert self.content[Path(fresh.dataset.paths[index])] == number
        gone = {identity for identity in self.told if identity not in here}
        assert gone == {identity for identity in fresh.pool.missing if identity in self.told}
        numbers = {self.content[Path(path)] for path in fresh.dataset.paths}
        assert numbers == set(self.content.values()) and len(fresh.dataset) == len(numbers)


TestFilesComeAndGo = FilesComeAndGo.TestCase
TestFilesComeAndGo.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)


def test_an_evaluation_split_stays_when_files_come(tmp_path):
    for number in range(60):
        write(tmp_path / "ab"[number % 2] / f"{number}.png", number)
    before = load_dataset(str(tmp_path))
    for number in range(60, 90):
        write(tmp_path / "ab"[number % 2] / f"0{number}.png", number)
    (tmp_path / "a" / "2.png").rename(tmp_path / "a" / "zz.png")
    after = load_dataset(str(tmp_path))
    assert set(before.identities) < set(after.identities)
    assert set(before.eval_identities) < set(after.eval_identities)
    assert 5 <= len(before.eval_images) <= 20  # a fifth of 60


ASKS = """
import sys
from alhpo import ActiveLearner, load_dataset
dataset = load_dataset(sys.argv[1], classes=("cat", "dog", "emu"))
learner = ActiveLearner(dataset, "resnet10t", "random", path=sys.argv[2], seed=int(sys.argv[3]))
for _ in range(5):
    query = learner.ask_initial(2)
    learner.tell(query.indices[:1], ["cat"])
    print(*(dataset.identities[index] for index in query.indices), flush=True)
"""


@pytest.mark.slow
def test_processes_on_one_folder_never_ask_for_the_same_image(tmp_path):
    for number in range(20):
        write(tmp_path / "photos" / f"{number}.png", number)
    command = [sys.executable, "-c", ASKS, str(tmp_path / "photos"), str(tmp_path / "session")]
    processes = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True)
        for seed in range(2)
    ]
    asked = [word for process in processes for word in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(asked) == len(set(asked)) == 20
    entries = [json.loads(line) for line in (tmp_path / "session" / "labels.jsonl").open()]
    recorded = [image for entry in entries if entry["event"] == "ask" for image in entry["images"]]
    assert sorted(recorded) == sorted(asked)
    learner = learner_of(tmp_path / "photos", tmp_path / "session")
    assert (learner.n_labeled, len(learner.pool.pending)) == (10, 10)
    assert not len(learner.pool.available)


def test_a_query_waits_for_the_lock_and_then_knows_what_was_asked(tmp_path):
    for number in range(12):
        write(tmp_path / "photos" / f"{number}.png", number)
    one, other = (learner_of(tmp_path / "photos", tmp_path / "session") for _ in range(2))
    first = one.ask_initial(6)
    assert not set(first.indices) & set(other.ask_initial(6).indices)
    one.tell(first.indices, ["dog"] * 6)
    other.pool.refresh()
    assert other.n_labeled == 6


def test_renamed_files_change_nothing_in_a_run(tmp_path):
    """Every image keeps its place, so strategies choose the same."""
    order = list(range(40))
    random.Random(1).shuffle(order)
    for name, number in enumerate(order):
        write(tmp_path / "one" / "ab"[number % 2] / f"{name:02d}.png", number)
        write(tmp_path / "two" / "ab"[number % 2] / "deep" / f"{99 - name}.png", number)
    one, two = (load_dataset(str(tmp_path / name)) for name in ("one", "two"))
    assert one.identities == two.identities and one.eval_identities == two.eval_identities
    assert one.paths != two.paths
    assert np.array_equal(one.images.numpy(), two.images.numpy())
    assert np.array_equal(one.labels.numpy(), two.labels.numpy())


def test_copies_are_one_image(tmp_path):
    write(tmp_path / "x" / "1.png", 1)
    write(tmp_path / "x" / "3.png", 3)
    for name in ("0.png", "2.png"):
        shutil.copy(tmp_path / "x" / "1.png", tmp_path / "x" / name)
    dataset = load_dataset(str(tmp_path / "x"), classes=["a"])
    assert sorted(Path(path).name for path in dataset.paths) == ["0.png", "3.png"]
    assert any("2 files left out, as their content is there" in note for note in dataset.notes)


def test_copies_with_different_labels_are_refused_or_left_out(tmp_path):
    for number in range(8):
        write(tmp_path / "x" / "ab"[number % 2] / f"{number}.png", number)
    shutil.copy(tmp_path / "x" / "a" / "2.png", tmp_path / "x" / "b" / "two.png")
    with pytest.raises(DataError) as caught:
        load_dataset(str(tmp_path / "x"))
    for file, label in (("a/2.png", "a"), ("b/two.png", "b")):
        assert f"{tmp_path}/x/{file}: labelled {label!r}, and a file with the same content" in str(
            caught.value
        )
    rest = load_dataset(str(tmp_path / "x"), on_error="skip")
    assert len(rest) + len(rest.eval_images) == 7 and len(rest.skipped) == 2


def test_equal_images_of_an_array_have_identities_of_their_own():
    images = np.zeros((4, 5, 5), np.uint8)
    images[2] = 1
    dataset = ImageDataset.from_arrays(images, classes=["a"])
    first, second, other, third = dataset.identities
    assert (second, third) == (f"{first}:1", f"{first}:2") and other != first
