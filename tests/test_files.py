"""Nothing that was reported as written is lost, nothing half-written is read."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import alhpo.base.files
from alhpo.base.errors import ConfigurationError, DataError, RunLockedError
from alhpo.base.files import (
    Journal,
    atomic_path,
    canonical_json,
    content_hash,
    exclusive,
    write_json,
    write_text,
)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


# --- journal -------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(VALUES, max_size=6))
def test_journal_returns_what_was_appended(entries):
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder, "deep", "er", "journal.jsonl"))
        assert journal.read() == []
        for entry in entries:
            journal.append(entry)
        assert Journal(journal.path).read() == entries


@settings(max_examples=40, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=5), st.data())
def test_journal_cut_anywhere_keeps_the_whole_entries_before_the_cut(entries, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "journal.jsonl")
        ends = [0]
        for entry in entries:
            Journal(path).append(entry)
            ends.append(path.stat().st_size)
        cut = data.draw(st.integers(0, ends[-1]))
        path.write_bytes(path.read_bytes()[:cut])
        whole = entries[: sum(end <= cut for end in ends) - 1]
        assert Journal(path).read() == whole
        Journal(path).append({"after": "crash"})
        assert Journal(path).read() == [*whole, {"after": "crash"}]


@pytest.mark.parametrize("damage", [b'{"n": 1', b"\xff\xfe", b"", b"{}{}"])
def test_damaged_line_before_the_last_is_an_error_with_its_number(tmp_path, damage):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"n":0}\n' + damage + b'\n{"n":2}\n')
    with pytest.raises(DataError, match=r"journal\.jsonl, line 2 is not JSON"):
        Journal(path).read()


@pytest.mark.parametrize("entry", [float("nan"), {"metric": float("inf")}, object(), {1, 2}])
def test_entry_that_is_not_json_leaves_the_journal_as_it_was(tmp_path, entry):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append([1])
    before = journal.path.read_bytes()
    with pytest.raises((ValueError, TypeError)):
        journal.append(entry)
    assert journal.path.read_bytes() == before


def test_journal_is_one_line_of_json_per_entry(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append({"b": "two\nlines", "a": 1})
    journal.append([])
    lines = journal.path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"a": 1, "b": "two\nlines"}, []]


# --- identity ------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=5), st.randoms())
def test_identity_does_not_depend_on_the_order_of_keys(value, random):
    keys = list(value)
    random.shuffle(keys)
    shuffled = {key: value[key] for key in keys}
    assert canonical_json(shuffled) == canonical_json(value)
    assert content_hash(shuffled) == content_hash(value)
    assert json.loads(canonical_json(value)) == value


def test_identity_differs_with_the_value_and_has_the_asked_length():
    hashes = {content_hash(value) for value in ({"a": 1}, {"a": 2}, {"b": 1}, [1], "1", 1, None)}
    assert len(hashes) == 7
    assert len(content_hash({}, 8)) == 8 and content_hash({}).startswith(content_hash({}, 8))
    with pytest.raises(ValueError, match="JSON"):
        content_hash({"lr": float("nan")})


# --- atomic files --------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
def test_atomic_path_replaces_on_success(tmp_path, durable):
    path = tmp_path / "new" / "value.txt"
    for text in ("one", "two"):
        with atomic_path(path, durable=durable) as temporary:
            temporary.write_text(text)
        assert path.read_text() == text
    assert [child.name for child in path.parent.iterdir()] == ["value.txt"]


def test_atomic_path_shows_the_old_content_until_the_end(tmp_path):
    path = tmp_path / "value.txt"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_reader_never_finds_the_file_missing_or_half_written(tmp_path):
    path, ended, seen = tmp_path / "value.txt", threading.Event(), []
    texts = {letter * 9999 for letter in "ab"}
    write_text(path, "a" * 9999)

    def read():
        while not ended.is_set():
            try:
                seen.append(path.read_text() in texts)
            except FileNotFoundError:
                seen.append(False)

    with ThreadPoolExecutor() as pool:
        pool.submit(read)
        for _ in range(300):
            for text in texts:
                with atomic_path(path, durable=False) as temporary:
                    temporary.write_text(text)
        ended.set()
    assert seen and all(seen)


def test_atomic_path_keeps_old_content_and_leaves_nothing_after_an_exception(tmp_path):
    path = tmp_path / "value.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["value.txt"]


def test_write_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"a": [1, 2.5, None, "ä"]})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, 2.5, None, "ä"]}


# --- locks ---------------------------------------------------------------------------------------

# Loads alhpo.base.files without the rest of the package, which takes seconds to import.
HOLD = """
import sys, types
from pathlib import Path
package = types.ModuleType("alhpo")
package.__path__ = [sys.argv[1]]
sys.modules["alhpo"] = package
from alhpo.base.files import exclusive
from alhpo.base.errors import RunLockedError
free, held = map(Path, sys.argv[2:])
with exclusive(free):
    try:
        with exclusive(held):
            print("not refused", flush=True)
    except RunLockedError as error:
        print("refused:", error, flush=True)
    sys.stdin.readline()
"""


def test_second_process_is_refused_and_a_killed_one_frees_its_folder(tmp_path):
    free, held = tmp_path / "free", tmp_path / "held"
    command = [sys.executable, "-c", HOLD, str(Path(alhpo.__file__).parent), free, held]
    pipe = subprocess.PIPE
    with exclusive(held), subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            answer = process.stdout.readline()
            assert answer.startswith("refused") and str(held) in answer
            with pytest.raises(RunLockedError, match="in use"), exclusive(free):
                pass
        finally:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with exclusive(free):
            pass


def test_second_part_of_the_same_process_is_refused(tmp_path):
    with exclusive(tmp_path):
        with pytest.raises(RunLockedError), exclusive(tmp_path):
            pass
        with pytest.raises(RunLockedError), exclusive(tmp_path):  # the refusal freed nothing
            pass
    with exclusive(tmp_path / "other"), exclusive(tmp_path):
        pass


def test_lock_is_released_after_an_exception(tmp_path):
    with pytest.raises(KeyError), exclusive(tmp_path):
        raise KeyError
    with exclusive(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    match = r"folder .*file.run cannot be made or written \(Not a directory\)\. Choose another"
    with pytest.raises(ConfigurationError, match=match), exclusive(tmp_path / "file" / "run"):
        pass
