"""A file that is damaged or gone never changes a record: it does not matter, or the error names it.

Every file of a run, a search or a study that was stopped, or had ended, is in turn filled with
zeros (as a power cut leaves what was not on disk yet), emptied, cut in half, and removed, and
every folder is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kill_examples import recorded, run, search, study
from killing import (
    Ended,
    Tree,
    continued,
    in_memory,
    in_process,
    states_of,
)

Job = Callable[[], Any]
Moment = Callable[[Tree], bool]


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as folder:
        yield folder


def _match(tree: Tree, pattern: str) -> list[bytes]:
    return [tree.content[name] or b"" for name in tree.files if fnmatch(name, pattern)]


def _trained(tree: Tree, journal: str) -> list[int]:
    """The epochs in each of these journals of searches."""
    return [content.count(b'"kind":"epoch"') for content in _match(tree, journal)]


#: When a job is stopped: in a search, when a trial has gone on from its checkpoint; in the fit of
#: the second cycle, after the first of its epochs; at the end.
MOMENTS: dict[str, Moment] = {
    "searching": lambda tree: 3 in _trained(tree, "*/hpo/cycle_001/*/journal.jsonl"),
    "fitting": lambda tree: bool(_match(tree, "*/fit/cycle_001/state.safetensors")),
    "ended": lambda tree: bool(_match(tree, "*/run.json")),
    "searched": lambda tree: b'"kind":"end"' in b"".join(_match(tree, "*/journal.jsonl")),
}
#: Files for people and other programs; a job that goes on does not look at them.
NOT_READ = ("*/first_query.png", "*/configuration_space.json", "*/hpo4dl_results.csv")
#: The same in a run, and what a search that has ended does not look at.
NOT_READ_BY_RUNS = (*NOT_READ, "*/hpo/*/format.json")


def damages(content: bytes | None) -> dict[str, bytes | None]:
    """What may become of a file, or of a folder (None); None where it is gone."""
    if content is None:
        return {"gone": None}
    half = content[: len(content) // 2]
    return {"zeros": bytes(len(content)), "empty": b"", "half": half, "gone": None}


def names_it(message: str, path: Path) -> bool:
    """Whether a message says which file is damaged: by its path, by its name and its folder's path,
    or for a checkpoint or a folder that is gone by the folder it was in."""
    if str(path) in message:
        return True
    by_folder = path.suffix in (".safetensors", "") or path.name in message
    return by_folder and str(path.parent) in message


def without_repetitions(records: dict[str, Any]) -> dict[str, Any]:
    """The records without the notes that a trial was trained again, as its checkpoint was lost."""
    return {
        name: [entry for entry in content if entry.get("kind") not in ("retrain", "retrained")]
        if name.endswith("journal.jsonl") and isinstance(content, list)
        else content
        for name, content in records.items()
    }


def verdict(ended: Ended, expected: Any, file: Path, may_differ: set[str]) -> str:
    """What is wrong with how a job went on without the file as it was; empty for nothing."""
    if ended.error is not None:
        if not ended.expected:
            return ended.traceback
        return "" if names_it(ended.error, file) else f"does not name it: {ended.error}"
    (result, found), (right_result, records) = ended.value, expected
    if result != right_result:
        return "another result"
    found = without_repetitions(found)
    others = {n for n in {*found, *records} if found.get(n) != records.get(n)}
    return f"other content of {sorted(others)}" if others - may_differ else ""


def check_every_damage(job: Job, folder: Path, moment: Moment, not_read: tuple[str, ...]) -> None:
    """Stop a job in the first state like this, and go on after each damage to each of its files.

    A file of ``not_read`` may stay as the damage left it.
    """
    folder.mkdir()
    states = states_of(job, folder)
    expected = in_process(job).result(), recorded(folder)
    stopped = next(state for state in states if moment(state))
    cases = [
        (name, kind, stopped.without(name) if content is None else stopped.written(name, content))
        for name, before in stopped.content.items()
        for kind, content in damages(before).items()
    ]
    cases = [case for case in cases if case[2] != stopped]
    wrong = []
    outcomes = continued(job, folder, [damaged for _, _, damaged in cases], recorded)
    for (name, kind, _), ended in zip(cases, outcomes, strict=True):
        affected = [file for file in stopped.files if f"{file}/".startswith(f"{name}/")]
        may_differ = {file for file in affected for glob in not_read if fnmatch(file, glob)}
        if problem := verdict(ended, expected, folder / name, may_differ):
            wrong.append(f"{name}, {kind}: {problem}")
    assert not wrong, f"{len(wrong)} of {len(cases)} damages\n" + "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["cold", "warm"])
@pytest.mark.parametrize("moment", ["searching", "fitting"])
def test_a_stopped_run_goes_on_exactly_or_names_the_file(tmp_path, moment, start):
    folder = tmp_path / "damaged"
    job = partial(run, folder, start=start, hpo="per-cycle", budget=12)
    check_every_damage(job, folder, MOMENTS[moment], NOT_READ_BY_RUNS)


@pytest.mark.slow
def test_a_run_stopped_in_a_warm_fit_goes_on_exactly_or_names_the_file(tmp_path):
    folder = tmp_path / "damaged"
    job = partial(run, folder, start="warm", hpo="fixed", budget=12)
    check_every_damage(job, folder, MOMENTS["fitting"], NOT_READ_BY_RUNS)


@pytest.mark.slow
def test_an_ended_run_returns_its_records_or_names_the_file(tmp_path):
    folder = tmp_path / "damaged"
    job = partial(run, folder, start="warm", hpo="final", budget=12)
    check_every_damage(job, folder, MOMENTS["ended"], ("*",))


@pytest.mark.slow
@pytest.mark.parametrize("replaces_files", [False, True])
def test_a_stopped_search_goes_on_exactly_or_names_the_file(tmp_path, replaces_files):
    folder = tmp_path / "damaged"
    job = partial(search, folder, "dyhpo", replaces_files)
    check_every_damage(job, folder, lambda tree: 5 in _trained(tree, "*/journal.jsonl"), NOT_READ)


@pytest.mark.slow
def test_an_ended_search_returns_its_rows_or_names_the_file(tmp_path):
    folder = tmp_path / "damaged"
    job = partial(search, folder, "asha", True)
    check_every_damage(job, folder, MOMENTS["searched"], (*NOT_READ, "*/best_trial/*"))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["tuning", "ended"])
def test_a_stopped_study_goes_on_exactly_or_names_the_file(tmp_path, moment):
    """Only the files of the study itself, and those of its run that the tuning reads."""
    folder = tmp_path / "damaged"
    moments = {
        "tuning": lambda tree: 1 in _trained(tree, "*/tune/*/journal.jsonl"),
        "ended": lambda tree: bool(_match(tree, "*/tune.json")),
    }
    job = partial(study, folder, tune=True)
    check_every_damage(job, folder, moments[moment], ("*",))
