"""The cache of decoded images: what is trusted, renewed, evicted, shared and cleaned."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import alhpo.data.cache
import alhpo.data.decoding
import alhpo.data.facts
import alhpo.data.stored_images
from alhpo.base.errors import ConfigurationError, DataError
from alhpo.cli import main
from alhpo.data.loading import load_dataset
from alhpo.data.stored_images import stored_images

LONG_AGO = (10**9, 10**9)


def picture(seed, side=8):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)


def save(path, seed, *, age=LONG_AGO):
    """An uncompressed file, so that all have one size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(path)
    if age is not None:
        os.utime(path, age)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALHPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pets(tmp_path, cache):
    """Two classes with a pool of 8 images and an evaluation split of 2."""
    for number, name in enumerate(("cat", "dog")):
        for i in range(4):
            save(tmp_path / "pets" / "train" / name / f"{i}.bmp", 10 * number + i)
        save(tmp_path / "pets" / "val" / name / "0.bmp", 100 + number)
    return tmp_path / "pets"


@pytest.fixture
def work(monkeypatch):
    """The files that are inspected and decoded."""
    done: dict[str, list[str]] = {"inspected": [], "decoded": []}
    inspect, decode = alhpo.data.facts.inspect_files, alhpo.data.decoding.decode_files

    def inspected(paths):
        done["inspected"] += paths
        return inspect(paths)

    def decoded(paths, *others):
        done["decoded"] += paths
        return decode(paths, *others)

    monkeypatch.setattr(alhpo.data.facts, "inspect_files", inspected)
    monkeypatch.setattr(alhpo.data.decoding, "decode_files", decoded)
    return done


def counts(work):
    """The numbers of inspected and of decoded files since the last call."""
    result = len(work["inspected"]), len(work["decoded"])
    work["inspected"].clear()
    work["decoded"].clear()
    return result


def check(dataset):
    """Every image has the pixels of its file."""
    assert len(dataset.paths) == len(dataset.images)
    for path, image in zip(dataset.paths, dataset.images, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), image.numpy())
    return dataset


def entries(cache):
    return sorted(path for path in (cache / "images").glob("*") if path.name[0] != ".")


# --- trust ---------------------------------------------------------------------------------------


def test_a_second_load_reads_and_decodes_nothing(pets, work):
    one = check(load_dataset(str(pets)))
    assert counts(work) == (10, 10)
    two = check(load_dataset(str(pets)))
    assert counts(work) == (0, 0)
    assert torch.equal(one.images, two.images) and one.identities == two.identities
    check(load_dataset(str(pets), verify=True))
    assert counts(work) == (10, 10)
    check(load_dataset(str(pets)))
    assert counts(work) == (0, 0)


def test_a_table_whose_splits_share_a_folder_is_read_once(tmp_path, cache, work):
    lines = ["path,label,split"]
    for number in range(6):
        save(tmp_path / "t" / "images" / f"{number}.bmp", number)
        lines.append(f"{number}.bmp,a,{'val' if number > 3 else 'train'}")
    (tmp_path / "t" / "table.csv").write_text("\n".join(lines))
    check(load_dataset(str(tmp_path / "t" / "table.csv")))
    assert counts(work) == (6, 6)
    check(load_dataset(str(tmp_path / "t" / "table.csv")))
    assert counts(work) == (0, 0)


def test_facts_of_files_that_are_gone_are_forgotten(pets, cache):
    for number in range(3):
        save(pets / "train" / "cat" / f"new{number}.bmp", 50 + number)
        load_dataset(str(pets))
        (pets / "train" / "cat" / f"new{number}.bmp").unlink()
    known = [json.loads(file.read_text())["files"] for file in (cache / "files").glob("*.json")]
    assert len(known) == 2 and sum(map(len, known)) == 11


def test_a_file_that_changed_a_moment_ago_is_read_again(pets, work):
    path = pets / "train" / "cat" / "0.bmp"
    save(path, 60, age=None)
    stamp = path.stat()
    check(load_dataset(str(pets)))
    counts(work)
    pixels = picture(61)
    with path.open("r+b") as file:  # the same file, size and time
        content = Path(path).read_bytes()
        Image.fromarray(pixels).save(path.with_suffix(".new.bmp"))
        file.write(path.with_suffix(".new.bmp").read_bytes())
        assert len(content) == stamp.st_size
    path.with_suffix(".new.bmp").unlink()
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    check(load_dataset(str(pets)))
    assert counts(work) == (1, 1)


def replaced_unseen(path, seed):
    """Other pixels in a file of the same inode, size and time."""
    before = path.stat()
    Image.fromarray(picture(seed)).save(path.parent / "other.tmp", "BMP")
    content = (path.parent / "other.tmp").read_bytes()
    (path.parent / "other.tmp").unlink()
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
        *(before.st_ino, before.st_size, before.st_mtime_ns),
    )


def test_what_seems_unchanged_is_trusted_and_verify_is_not_fooled(pets, work):
    path = pets / "train" / "cat" / "0.bmp"
    before = load_dataset(str(pets))
    replaced_unseen(path, 60)
    counts(work)
    trusted = load_dataset(str(pets))
    assert counts(work) == (0, 0) and torch.equal(trusted.images, before.images)
    verified = check(load_dataset(str(pets), verify=True))
    assert set(before.identities) - set(verified.identities)
    assert check(load_dataset(str(pets))).identities == verified.identities


def test_other_pixels_are_never_stored_under_an_old_identity(pets):
    path = pets / "train" / "cat" / "0.bmp"
    load_dataset(str(pets))
    replaced_unseen(path, 60)
    with pytest.raises(DataError, match=r"0\.bmp: it changed after .*verify"):
        load_dataset(str(pets), image_size=8, pool_size=7, eval_size=1)
        load_dataset(str(pets), image_size=4)
    check(load_dataset(str(pets), verify=True))
    replaced_unseen(path, 0)
    check(load_dataset(str(pets), verify=True))


@pytest.mark.parametrize("change", ["content", "time", "replaced"])
def test_what_changed_is_read_again(pets, work, change):
    path = pets / "train" / "cat" / "0.bmp"
    load_dataset(str(pets))
    counts(work)
    if change == "content":
        save(path, 60, age=(10**9 + 1, 10**9 + 1))
    elif change == "time":
        os.utime(path, (10**9 + 1, 10**9 + 1))
    else:
        save(pets / "new.bmp", 61)
        (pets / "new.bmp").replace(path)
    check(load_dataset(str(pets)))
    assert counts(work) == (1, 0 if change == "time" else 1)


def test_what_cannot_be_decoded_is_tried_again(pets, monkeypatch, work):
    original = alhpo.data.workers.decode_file

    def failing(path, *others):
        if path.endswith("0.bmp"):
            raise alhpo.data.workers.UnreadableImage("Input/output error")
        return original(path, *others)

    with monkeypatch.context() as patch:
        patch.setattr(alhpo.data.workers, "decode_file", failing)
        dataset = check(load_dataset(str(pets), on_error="skip"))
        assert len(dataset) == 6 and len(dataset.skipped) == 4
        counts(work)
        check(load_dataset(str(pets), on_error="skip"))
        assert counts(work) == (0, 4)
    assert len(check(load_dataset(str(pets)))) == 8


def test_images_beside_damaged_ones_stay_mapped(pets, monkeypatch):
    content = (pets / "train" / "cat" / "0.bmp").read_bytes()
    (pets / "train" / "cat" / "cut.bmp").write_bytes(content[:-9])
    for _ in range(2):
        dataset = check(load_dataset(str(pets), on_error="skip"))
        assert len(dataset) == 8 and len(dataset.skipped) == 1
    monkeypatch.setattr(alhpo.data.decoding, "MEMORY_SHARE", 0.0)
    assert len(load_dataset(str(pets), on_error="skip")) == 8


def test_renaming_and_moving_within_a_class_decodes_nothing_and_keeps_every_place(pets, work):
    before = load_dataset(str(pets))
    counts(work)
    cats = pets / "train" / "cat"
    (cats / "0.bmp").rename(cats / "zzz.BMP")
    (cats / "deep").mkdir()
    (cats / "1.bmp").rename(cats / "deep" / "a.bmp")
    after = check(load_dataset(str(pets)))
    assert counts(work) == (2, 0)
    assert after.identities == before.identities and after.paths != before.paths
    assert torch.equal(after.images, before.images) and torch.equal(after.labels, before.labels)
    pets.rename(pets.parent / "renamed")
    moved = check(load_dataset(str(pets.parent / "renamed")))
    assert counts(work) == (10, 0) and moved.identities == before.identities


# --- damage --------------------------------------------------------------------------------------

DAMAGE = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "a list": lambda content: b"[]",
    "of another form": lambda content: b'{"rules": 1, "files": [1], "problems": [], "images": 1}',
    "of another form, too": lambda content: (
        b'{"rules": 1, "files": {"a": null}, "problems": {"99": "x"}, "images": 1}'
    ),
    "not text": lambda content: b"\xff\xfe\x00",
}


@pytest.mark.parametrize("name", ["pixels.npy", "entry.json", "facts"])
@pytest.mark.parametrize("damage", list(DAMAGE))
def test_damaged_files_of_the_cache_are_made_anew(pets, cache, work, name, damage):
    before = check(load_dataset(str(pets)))
    pattern = "files/*.json" if name == "facts" else f"images/*/{name}"
    files = list(cache.glob(pattern))
    assert len(files) == 2
    for file in files:
        other = file.with_suffix(".other")  # what is mapped stays as it is
        other.write_bytes(DAMAGE[damage](file.read_bytes()))
        other.replace(file)
    counts(work)
    after = check(load_dataset(str(pets)))
    assert counts(work) == ((10, 0) if name == "facts" else (0, 10))
    assert torch.equal(after.images, before.images) and not after.skipped
    check(load_dataset(str(pets)))
    assert counts(work) == (0, 0)


@pytest.mark.parametrize("name", ["pixels.npy", "entry.json"])
def test_missing_files_of_the_cache_are_made_anew(pets, cache, work, name):
    load_dataset(str(pets))
    for file in cache.glob(f"images/*/{name}"):
        file.unlink()
    counts(work)
    check(load_dataset(str(pets)))
    assert counts(work) == (0, 10)


def test_images_that_come_are_decoded_and_the_others_copied(pets, work, monkeypatch):
    monkeypatch.setattr(alhpo.data.stored_images, "BLOCK", 2)
    check(load_dataset(str(pets)))
    counts(work)
    for number in range(5):
        save(pets / "train" / "cat" / f"new{number}.bmp", 200 + number)
    (pets / "train" / "dog" / "0.bmp").unlink()
    dataset = check(load_dataset(str(pets)))
    assert len(dataset) == 12 and counts(work) == (5, 5)
    half = load_dataset(str(pets), pool_size=6)  # all of them were decoded before
    assert len(check(half)) == 6 and counts(work) == (0, 0)
    load_dataset(str(pets), image_size=5)  # other pixels
    assert counts(work) == (0, 14)


def test_an_entry_of_other_images_is_not_taken(pets, cache):
    load_dataset(str(pets))
    for file in cache.glob("images/*/pixels.npy"):
        file.unlink()
        np.save(file, np.zeros((3, 8, 8, 3), np.uint8))
    check(load_dataset(str(pets)))


def test_changes_of_loaded_images_stay_out_of_the_cache(pets):
    load_dataset(str(pets)).images.zero_()
    assert check(load_dataset(str(pets))).images.any()


# --- many processes ------------------------------------------------------------------------------


def test_two_at_once_decode_once(pets, work):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(load_dataset(str(pets)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len(work["decoded"]) == 10
    assert all(torch.equal(check(result).images, results[0].images) for result in results)


STORE = """
import os, signal, sys, time
from alhpo.data.stored_images import stored_images

def fill(rows, pixels):
    print("filled", flush=True)
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    pixels[:] = 7
    return [""] * len(rows)

pixels, reasons = stored_images(["a", "b"], (2, 2, 3), "x", fill)
assert pixels.shape == (2, 2, 2, 3) and (pixels == 7).all() and reasons == ["", ""]
"""


def storing(how):
    """A process that stores two images."""
    return subprocess.Popen(
        [sys.executable, "-c", STORE, how],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_two_processes_at_once_decode_once(cache):
    started = [storing("together") for _ in range(2)]
    assert sorted(process.communicate()[0] for process in started) == ["", "filled\n"]
    assert [process.returncode for process in started] == [0, 0]
    assert len(entries(cache)) == 1 and not list(cache.glob("images/.*.tmp"))


@pytest.mark.parametrize("same", [True, False])
def test_what_killed_processes_left_is_removed(cache, same):
    killed = storing("killed")
    assert killed.communicate()[0] == "filled\n" and killed.returncode == -9
    assert len(list(cache.glob("images/.*.tmp"))) == 1 and not entries(cache)
    images = ["a", "b"] if same else ["c"]
    stored = stored_images(images, (2, 2, 3), "x", lambda rows, _: [""] * len(rows))
    assert stored is not None and stored[0].shape == (len(images), 2, 2, 3)
    assert not list(cache.glob("images/.*.tmp")) and len(entries(cache)) == 1


def test_what_a_running_process_writes_is_not_removed(pets, cache, monkeypatch):
    load_dataset(str(pets))
    original, seen = alhpo.data.decoding.decode_files, []

    def meanwhile(*arguments):
        if not seen:
            seen.append(True)
            threads = [
                threading.Thread(target=load_dataset, args=[str(pets)], kwargs={"image_size": 6}),
                threading.Thread(target=alhpo.data.cache.clean_cache),
            ]
            for thread in threads:
                thread.start()
                thread.join()
        return original(*arguments)

    monkeypatch.setattr(alhpo.data.decoding, "decode_files", meanwhile)
    assert load_dataset(str(pets), image_size=5).image_size == (5, 5)
    assert seen and not list(cache.glob("images/.*.tmp")) and entries(cache)


# --- room ----------------------------------------------------------------------------------------


def limit_to(monkeypatch, count):
    """Room for about so many bytes."""
    monkeypatch.setenv("ALHPO_CACHE_GIB", f"{count / 2**30:.12f}")


def test_what_was_used_longest_ago_goes_first(pets, cache, work, monkeypatch):
    few = {"eval_size": 1}
    for number, size in enumerate((10, 11, 12)):
        load_dataset(str(pets), image_size=size, **few)
        for entry in entries(cache):
            described = entry / "entry.json"
            if json.loads(described.read_text())["shape"][1] == size:
                os.utime(described, (1000 + number, 1000 + number))
    load_dataset(str(pets), image_size=10, **few)  # used now
    taken = sum(file.stat().st_size for file in cache.glob("images/*/*"))
    limit_to(monkeypatch, taken + 100)
    load_dataset(str(pets), image_size=9, **few)
    left = {json.loads((e / "entry.json").read_text())["shape"][1] for e in entries(cache)}
    assert left == {9, 10, 12}
    assert sum(file.stat().st_size for file in cache.glob("images/*/pixels.npy")) <= taken + 100


def test_damaged_entries_take_room_and_are_evicted_and_cleaned(pets, cache, monkeypatch):
    load_dataset(str(pets))
    for file in cache.glob("images/*/entry.json"):
        file.write_bytes(b"")
    assert alhpo.data.cache.clean_cache() > 2000
    assert not entries(cache)
    load_dataset(str(pets))
    for file in cache.glob("images/*/entry.json"):
        file.unlink()
    limit_to(monkeypatch, 10 * 9 * 9 * 3 + 1300)
    load_dataset(str(pets), image_size=9)
    assert len(entries(cache)) == 2


@pytest.mark.parametrize("cause", ["too small", "a file", "no disk", "full", "no locks"])
def test_without_a_cache_images_are_decoded_into_memory(pets, cache, work, monkeypatch, cause):
    def failing(error):
        def fail(*_, **__):
            raise error

        return fail

    if cause == "too small":
        limit_to(monkeypatch, 100)
    elif cause == "a file":
        cache.write_text("in the way")
    elif cause == "no disk":
        monkeypatch.setattr(
            "shutil.disk_usage", lambda _: type("Usage", (), {"free": 10, "total": 10})
        )
    elif cause == "full":
        monkeypatch.setattr(os, "posix_fallocate", failing(OSError(28, "No space left")))
    else:
        monkeypatch.setattr("filelock.FileLock.acquire", failing(NotImplementedError("flock")))
    for _ in range(2):
        check(load_dataset(str(pets)))
    assert counts(work)[1] == 20
    assert not entries(cache) and not list(cache.glob("images/.*.tmp"))


def test_a_full_disk_does_not_cost_what_is_cached(pets, cache, monkeypatch):
    load_dataset(str(pets))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    load_dataset(str(pets), image_size=100)
    assert len(entries(cache)) == 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_cache_that_cannot_be_written(pets, cache):
    cache.mkdir()
    cache.chmod(0o500)
    check(load_dataset(str(pets)))


@pytest.mark.parametrize("value", ["much", "-1", "nan", "inf", ""])
def test_a_limit_that_is_no_number(pets, cache, monkeypatch, value):
    monkeypatch.setenv("ALHPO_CACHE_GIB", value)
    with pytest.raises(ConfigurationError, match=r"ALHPO_CACHE_GIB is .*expected a number from 0"):
        load_dataset(str(pets))


# --- alhpo cache ---------------------------------------------------------------------------------


def run(*arguments):
    result = CliRunner().invoke(main, ["cache", *arguments], catch_exceptions=False)
    return result.exit_code, result.output


def test_looking_at_an_empty_cache(cache):
    assert run() == (0, f"{cache}: 0 bytes of 50.0 GiB.\n")
    assert run("--clean") == (0, f"{cache}: 0 bytes freed.\n")


def test_looking_and_cleaning(pets, cache, work):
    dataset = load_dataset(str(pets))
    code, text = run()
    assert code == 0 and len(text.splitlines()) == 3 and str(pets / "train") in text
    assert "KiB of 50.0 GiB" in text.splitlines()[-1]
    old = next(e for e in entries(cache) if "train" in (e / "entry.json").read_text())
    os.utime(old / "entry.json", LONG_AGO)
    assert run("--clean", "--older-than", "1")[0] == 0
    assert len(entries(cache)) == 1 and not old.exists()
    check(dataset)  # what is mapped stays readable
    assert "KiB freed" in run("--clean")[1] or "bytes freed" in run("--clean")[1]
    assert not entries(cache) and not list((cache / "files").glob("*"))
    counts(work)
    check(load_dataset(str(pets)))
    assert counts(work) == (10, 10)


def test_options_that_do_not_fit(cache):
    code, text = run("--older-than", "3")
    assert code == 2 and "--older-than needs --clean" in text
    assert run("--clean", "--older-than", "-1")[0] == 2
