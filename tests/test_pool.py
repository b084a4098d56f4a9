"""The pool against a plain model of it, and replayed from its record after every step."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from alhpo.base.errors import AlhpoError, DataError, LabelError
from alhpo.base.files import Journal
from alhpo.data.pool import Pool, read_queried_indices

SIZE, CLASSES = 12, 3


def pool_of(size, classes, journal=None, **settings):
    """A pool of the images i0, i1, ... and the classes c0, c1, ..."""
    images, names = (
        tuple(f"{a}{n}" for n in range(count)) for a, count in (("i", size), ("c", classes))
    )
    return Pool(images, names, journal, **settings)


INDICES = st.lists(st.integers(0, SIZE - 1), unique=True, max_size=5)


class PoolAgainstModel(RuleBasedStateMachine):
    """``labels``, ``cycles``, ``asked`` are dicts whose order is the order of the events."""

    @initialize()
    def start(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "labels.jsonl")
        self.pool = pool_of(SIZE, CLASSES, Journal(self.path))
        self.labels, self.cycles, self.asked, self.cycle = {}, {}, {}, 0

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule()
    def next_cycle(self):
        self.cycle += 1

    @rule(indices=INDICES)
    def ask(self, indices):
        if any(i in self.labels or i in self.asked for i in indices):
            with pytest.raises(LabelError, match="labelled or was asked"):
                self.pool.ask(indices, self.cycle)
        else:
            self.pool.ask(indices, self.cycle)
            self.asked |= dict.fromkeys(indices, self.cycle)

    @rule(answers=st.dictionaries(st.integers(0, SIZE - 1), st.integers(0, CLASSES - 1)))
    def tell(self, answers):
        """Parts, unasked images, repetitions and contradictions come up by chance."""
        chosen, labels = np.array([*answers], dtype=int), np.array([*answers.values()], dtype=int)
        if any(self.labels.get(i, label) != label for i, label in answers.items()):
            with pytest.raises(LabelError, match="cannot be changed"):
                self.pool.tell(chosen, labels, self.cycle)
            return
        self.pool.tell(chosen, labels, self.cycle)
        for index, label in answers.items():
            if index not in self.labels:
                self.labels[index] = label
                self.cycles[index] = self.asked.pop(index, self.cycle)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), label=st.integers(0, CLASSES - 1))
    def answer_some_of_what_was_asked(self, data, label):
        some = data.draw(st.sets(st.sampled_from(list(self.asked)), min_size=1))
        self.tell(dict.fromkeys(some, label))

    @rule(
        bad=st.sampled_from(
            [
                ([0, SIZE], [0, 0]),
                ([-1], [0]),
                ([0, 0], [1, 1]),
                ([0, 1], [0]),
                ([0, 1], [0, CLASSES]),
                ([0], [-1]),
                ([0], [0.0]),
                ([0], [True]),
                ([1.0], [0]),
                (["1"], [0]),
                ([0], [None]),
            ]
        )
    )
    def tell_what_cannot_be(self, bad):
        before = self.path.read_bytes() if self.path.exists() else b""
        with pytest.raises(LabelError):
            self.pool.tell(*bad, self.cycle)
        assert (self.path.read_bytes() if self.path.exists() else b"") == before

    @rule(bad=st.sampled_from([[SIZE], [-1], [3, 3], [1.5], [True]]))
    def ask_what_cannot_be(self, bad):
        with pytest.raises(LabelError):
            self.pool.ask(bad, self.cycle)

    @rule()
    def crash_while_writing_and_reopen(self):
        with self.path.open("ab") as file:
            file.write(b'{"event":"tell","cyc')
        self.pool = pool_of(SIZE, CLASSES, Journal(self.path))

    @invariant()
    def agrees(self):
        if not hasattr(self, "pool"):
            return
        for pool in (self.pool, pool_of(SIZE, CLASSES, Journal(self.path))):
            assert pool.labeled.tolist() == list(self.labels)
            assert pool.labels.tolist() == list(self.labels.values())
            assert pool.pending.tolist() == list(self.asked)
            free = [i for i in range(SIZE) if i not in self.labels and i not in self.asked]
            assert pool.available.tolist() == free
            assert len(pool) == len(self.labels)
            assert pool.cycle == max([*self.cycles.values(), *self.asked.values()], default=0)
            by_cycle = {
                cycle: [i for i in self.labels if self.cycles[i] == cycle]
                for cycle in sorted(set(self.cycles.values()))
            }
            assert pool.by_cycle() == by_cycle
            assert list(pool.by_cycle()) == list(by_cycle)


TestPoolAgainstModel = PoolAgainstModel.TestCase
TestPoolAgainstModel.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


# --- by example ----------------------------------------------------------------------------------


def test_partial_and_late_answers_count_for_the_cycle_of_asking():
    pool = pool_of(10, 2)
    pool.tell([4, 2], [0, 1], cycle=0)
    pool.ask([7, 1, 9], cycle=1)
    pool.tell([9], [1], cycle=1)
    pool.ask([0], cycle=2)
    pool.tell([0, 7, 5], [1, 0, 0], cycle=2)  # 7 is late, 5 was not asked for
    assert pool.by_cycle() == {0: [4, 2], 1: [9, 7], 2: [0, 5]}
    assert pool.pending.tolist() == [1]
    assert pool.available.tolist() == [3, 6, 8]
    assert pool.labeled.tolist() == [4, 2, 9, 0, 7, 5]


def test_messages_name_the_index_the_labels_and_the_rule():
    pool = pool_of(10, 3)
    pool.tell([5], [1], cycle=0)
    with pytest.raises(LabelError, match="Index 5 was labelled 'c1' before and is now told 'c2'"):
        pool.tell([4, 5], [0, 2], cycle=0)
    with pytest.raises(LabelError, match=r"Index 10 is out of range.* 0 to 9"):
        pool.tell([10], [0], cycle=0)
    with pytest.raises(
        LabelError, match=r"Label 3 of index 4 is out of range: .* 0 to 2 .c0, c1, c2"
    ):
        pool.tell([4], [3], cycle=0)
    with pytest.raises(LabelError, match="2 indices came with 1 labels"):
        pool.tell([4, 6], [0], cycle=0)
    with pytest.raises(LabelError, match="Index 4 is given twice"):
        pool.tell([4, 4], [0, 0], cycle=0)
    assert pool.labeled.tolist() == [5]


def test_the_same_label_again_changes_nothing(tmp_path):
    pool = pool_of(10, 3, Journal(tmp_path / "labels.jsonl"))
    pool.tell([5, 6], [1, 2], cycle=0)
    before = (tmp_path / "labels.jsonl").read_bytes()
    pool.tell([6], [2], cycle=3)
    assert (tmp_path / "labels.jsonl").read_bytes() == before
    pool.tell([6, 7], [2, 0], cycle=3)
    assert pool.by_cycle() == {0: [5, 6], 3: [7]}


def test_arrays_and_numpy_integers_are_taken(tmp_path):
    pool = pool_of(10, 3, Journal(tmp_path / "labels.jsonl"))
    pool.ask(np.array([1, 2], dtype=np.int32), cycle=1)
    pool.tell(torch.tensor([2]), np.array([1], dtype=np.uint8), cycle=1)
    pool.tell((np.int64(3),), iter([np.int16(2)]), cycle=1)
    assert pool.labeled.tolist() == [2, 3]
    assert pool_of(10, 3, Journal(tmp_path / "labels.jsonl")).labels.tolist() == [1, 2]


def test_arrays_handed_out_are_copies():
    pool = pool_of(4, 2)
    pool.tell([1], [1], cycle=0)
    pool.labeled[:] = 0
    pool.labels[:] = 0
    assert (pool.labeled.tolist(), pool.labels.tolist()) == ([1], [1])


# --- a journal that does not fit -----------------------------------------------------------------


@pytest.mark.parametrize("event", ["ask", "tell"])
def test_images_that_are_gone_keep_their_labels(tmp_path, event):
    journal = Journal(tmp_path / "labels.jsonl")
    pool = pool_of(10, 3, journal)
    (pool.ask([9, 2], 0) if event == "ask" else pool.tell([9, 2], [2, 1], 0))
    fewer = pool_of(9, 3, journal)
    assert [*fewer.missing] == ["i9"] and fewer.available.tolist() == [0, 1, 3, 4, 5, 6, 7, 8]
    again = pool_of(10, 3, journal)
    assert not again.missing
    assert again.labeled.tolist() == ([] if event == "ask" else [9, 2])
    assert again.pending.tolist() == ([9, 2] if event == "ask" else [])


def test_journal_with_labels_of_more_classes_is_refused(tmp_path):
    journal = Journal(tmp_path / "labels.jsonl")
    pool_of(10, 5, journal).tell([0, 1], [0, 4], cycle=0)
    with pytest.raises(LabelError, match="holds the label 'c4', but the classes"):
        pool_of(10, 4, journal)


@pytest.mark.parametrize("entry", [{"cycle": 0, "n_labeled": 100}, [1, 2], "text", {"event": "x"}])
def test_journal_of_something_else_is_refused(tmp_path, entry):
    journal = Journal(tmp_path / "labels.jsonl")
    journal.append(entry)
    with pytest.raises(AlhpoError):
        pool_of(10, 4, journal)


def test_labels_follow_images_and_classes_that_change_places(tmp_path):
    journal = Journal(tmp_path / "labels.jsonl")
    Pool(("a", "b", "c"), ("cat", "dog"), journal).tell([0, 2], ["dog", 0], cycle=0)
    pool = Pool(("x", "c", "b", "a"), ("ape", "cat", "dog"), journal)
    assert (pool.labeled.tolist(), pool.labels.tolist()) == ([3, 1], [2, 1])


def test_two_labels_of_one_image_are_refused(tmp_path):
    journal = Journal(tmp_path / "labels.jsonl")
    for label in ("cat", "cat", "dog"):
        journal.append({"event": "tell", "cycle": 0, "images": ["a"], "labels": [label]})
    for images in (("a", "b"), ("b",)):
        with pytest.raises(LabelError, match="two labels for one image, 'cat' and 'dog'"):
            Pool(images, ("cat", "dog"), journal)


def test_an_entry_that_does_not_fit_is_refused_again_and_again(tmp_path):
    journal = Journal(tmp_path / "labels.jsonl")
    pool = Pool(("a", "b", "c"), ("cat", "dog"), journal)
    pool.tell([0], ["cat"], 0)
    for image, label in (("a", "dog"), ("b", "dog")):
        journal.append({"event": "tell", "cycle": 0, "images": [image], "labels": [label]})
    for _ in range(2):
        with pytest.raises(LabelError, match="two labels for one image"):
            pool.tell([2], ["cat"], 0)
    assert len(journal.read()) == 3


def test_a_class_by_name_and_one_that_is_not_there():
    pool = Pool(("a", "b"), ("cat", "dog"))
    pool.tell([1], ["dog"], 0)
    assert pool.labels.tolist() == [1]
    with pytest.raises(
        LabelError, match=r"'dgo' of index 0 is not a class.*cat, dog.*Did you mean 'dog'"
    ):
        pool.tell([0], ["dgo"], 0)


def test_the_file_of_an_image_is_on_record(tmp_path):
    journal = Journal(tmp_path / "labels.jsonl")
    Pool(("a", "b"), ("x",), journal, paths=("1.png", "2.png")).tell([1], [0], 0)
    assert journal.read()[0]["paths"] == ["2.png"]
    assert Pool(("a",), ("x",), journal).missing == {"b": "2.png"}


def test_two_pools_of_one_journal_see_what_the_other_does(tmp_path):
    one, other = (pool_of(6, 2, Journal(tmp_path / "labels.jsonl")) for _ in range(2))
    one.ask([1, 2], 1)
    with pytest.raises(LabelError, match="Index 2 is labelled or was asked for"):
        other.ask([2, 3], 1)
    other.tell([2], [1], 1)
    with pytest.raises(LabelError, match="Index 2 was labelled 'c1' before"):
        one.tell([2], [0], 1)
    one.tell([2], [1], 1)  # the same
    assert one.labeled.tolist() == other.labeled.tolist() == [2]
    with one.locked():
        assert one.available.tolist() == [0, 3, 4, 5]


def test_a_journal_that_was_cut_short_while_in_use_is_refused(tmp_path):
    pool = pool_of(6, 2, Journal(tmp_path / "labels.jsonl"))
    pool.tell([1], [0], 0)
    (tmp_path / "labels.jsonl").write_bytes(b"")
    with pytest.raises(DataError, match="cut short"):
        pool.tell([2], [0], 0)


# --- what a strategy remembers -------------------------------------------------------------------


def test_the_latest_state_of_each_strategy_comes_back_from_the_journal(tmp_path):
    journal = Journal(tmp_path / "labels.jsonl")
    pool = pool_of(10, 3, journal)
    assert pool.state("albl") is None
    pool.ask([1], 1, state={"weights": [1.0, 0.1], "round": 1}, strategy="albl")
    pool.ask([2], 2, state={"weights": [2.0, 1 / 3], "round": 2}, strategy="albl")
    pool.ask([3], 3, state={"seen": []}, strategy="other")
    pool.ask([4], 4)  # made at random, as after a divergence: nothing is forgotten
    pool.tell([4, 1], [0, 0], 4)
    for one in (pool, pool_of(10, 3, journal)):
        assert one.state("albl") == {"weights": [2.0, 1 / 3], "round": 2}
        assert one.state("other") == {"seen": []}
        assert one.state("badge") is None


def test_a_refused_question_leaves_no_state(tmp_path):
    pool = pool_of(10, 3, Journal(tmp_path / "labels.jsonl"))
    with pytest.raises(LabelError):
        pool.ask([10], 1, state={"round": 1}, strategy="albl")
    assert pool.state("albl") is None


def test_who_asked_is_on_record(tmp_path):
    journal = Journal(tmp_path / "labels.jsonl")
    pool = pool_of(10, 3, journal)
    pool.ask([4, 2], 1, strategy="badge")
    pool.ask([7], 2)
    asked = {"event": "ask", "cycle": 1, "images": ["i4", "i2"], "strategy": "badge"}
    assert journal.read() == [asked, {"event": "ask", "cycle": 2, "images": ["i7"]}]
    for one in (pool, pool_of(10, 3, journal)):
        assert [one.asked_by(index) for index in (4, 2, 7, 1)] == ["badge", "badge", "", ""]
        assert one.state("badge") is None


def test_a_state_that_is_no_mapping_is_not_of_this_record(tmp_path):
    journal = Journal(tmp_path / "labels.jsonl")
    journal.append({"event": "ask", "cycle": 1, "images": ["i1"], "state": [1], "strategy": "x"})
    with pytest.raises(LabelError, match="not of what was asked"):
        pool_of(10, 3, journal)


# --- queried_indices.json ------------------------------------------------------------------------


def test_export_is_read_back(tmp_path):
    pool = pool_of(20, 2)
    pool.tell([7, 3, 11], [0, 1, 1], cycle=0)
    pool.ask([1, 19], cycle=1)
    pool.tell([19, 1], [0, 0], cycle=1)
    path = tmp_path / "new" / "queried_indices.json"
    pool.export(path)
    assert json.loads(path.read_text()) == {"cycle0": [7, 3, 11], "cycle1": [19, 1]}
    assert read_queried_indices(path, 100) == [[7, 3, 11], [19, 1]]


def test_export_with_a_cycle_nobody_answered_yet_is_read_back(tmp_path):
    pool = pool_of(20, 2)
    pool.tell([7], [0], cycle=0)
    pool.ask([1], cycle=1)
    pool.ask([2], cycle=2)
    pool.tell([2], [1], cycle=2)
    pool.export(tmp_path / "queried_indices.json")
    assert read_queried_indices(tmp_path / "queried_indices.json", 100) == [[7], [], [2]]


def test_more_than_ten_cycles_come_back_in_order(tmp_path):
    path = tmp_path / "queried_indices.json"
    content = {f"cycle{n}": [n, n + 50] for n in range(12)}
    path.write_text(json.dumps(dict(sorted(content.items()))))  # cycle10 before cycle2
    assert read_queried_indices(path, 100) == [[n, n + 50] for n in range(12)]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[1, 2]", '{"cycle1": [1]}', '{"a": [1]}', '{"cycle0": 3}', '{"cycle0": ["x"]}'),
        *('{"cycle0": [1.7]}', '{"cycle0": [true]}', '{"cycle0": [null]}', '{"cycle0": [1, 2'),
    ],
)
def test_file_of_another_form_is_refused_with_its_name(tmp_path, text):
    path = tmp_path / "queried_indices.json"
    path.write_text(text)
    with pytest.raises(LabelError, match=r"queried_indices\.json is not of the form"):
        read_queried_indices(path, 100)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"cycle0": [1, 100]}, "index 100, but the pool has the 100 images 0 to 99"),
        ({"cycle0": [-1]}, "index -1, but"),
        ({"cycle0": [3, 4], "cycle1": [5, 3]}, "index 3 twice"),
    ],
)
def test_indices_that_the_pool_cannot_have(tmp_path, content, match):
    path = tmp_path / "queried_indices.json"
    path.write_text(json.dumps(content))
    with pytest.raises(LabelError, match=match):
        read_queried_indices(path, 100)


def test_a_record_of_something_else_is_named(tmp_path):
    journal = Journal(tmp_path / "labels.jsonl")
    journal.append([1])
    with pytest.raises(LabelError, match=r"labels\.jsonl holds \[1\].*copy"):
        pool_of(10, 3, journal)
