"""A file that is damaged or gone never changes a record: it does not matter, or the error names it.

Every file of a run, a search or a study that was stopped, or had ended, is in turn filled with
zeros (as a power cut leaves what was not on disk yet), emptied, cut in half, and removed.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kill_examples import recorded, run
from killing import Ended, Tree, in_process, states_of

Job = Callable[[], Any]
Moment = Callable[[Tree], bool]


def _match(tree: Tree, pattern: str) -> list[bytes]:
    return [tree.content[name] or b"" for name in tree.files if fnmatch(name, pattern)]


#: When a run is stopped: in its second cycle's search, when a trial goes on; in the fit of that
#: cycle, after the first of its epochs; and at its end.
RUN_MOMENTS: dict[str, Moment] = {
    "searching": lambda tree: any(
        journal.count(b'"kind":"epoch"') == 3
        for journal in _match(tree, "*/hpo/cycle_001/*/journal.jsonl")
    ),
    "fitting": lambda tree: bool(_match(tree, "*/fit/cycle_001/state.safetensors")),
    "ended": lambda tree: bool(_match(tree, "*/run.json")),
}


def damages(content: bytes) -> dict[str, bytes | None]:
    """What becomes of a file; None where it is gone."""
    return {
        "zeros": bytes(len(content)),
        "empty": b"",
        "half": content[: len(content) // 2],
        "gone": None,
    }


def names_it(message: str, file: Path) -> bool:
    """Whether a message says which file it is, or for a checkpoint, which folder."""
    if file.suffix == ".safetensors" or "trials" in file.parts:
        return str(file.parent) in message
    return str(file) in message or (file.name in message and str(file.parent) in message)


def verdict(ended: Ended, found: dict[str, Any], expected: Any, file: Path) -> str:
    """What is wrong with how a job went on without the file as it was; empty for nothing."""
    if ended.error is not None:
        if not ended.expected:
            return f"raised {ended.error}\n{ended.traceback}"
        return "" if names_it(ended.error, file) else f"does not name it: {ended.error}"
    result, records = expected
    if ended.value != result:
        return "another result"
    differing = sorted(n for n in {*found, *records} if found.get(n) != records.get(n))
    return f"others: {differing}" if differing else ""


def check_every_damage(job: Job, folder: Path, moment: Moment) -> None:
    """Stop a job in the first state like this, and go on after damage to each of its files."""
    folder.mkdir()
    states = states_of(job, folder)
    expected = in_process(job).result(), recorded(folder)
    stopped = next(state for state in states if moment(state))
    wrong = {}
    for name in stopped.files:
        for kind, content in damages(stopped.content[name] or b"").items():
            damaged = stopped.without(name) if content is None else stopped.written(name, content)
            if damaged == stopped:
                continue
            damaged.put(folder)
            ended = in_process(job)
            if problem := verdict(ended, recorded(folder), expected, folder / name):
                wrong[name, kind] = problem
    lines = [f"{name}, {kind}: {problem}" for (name, kind), problem in wrong.items()]
    assert not wrong, "\n".join(lines)


@pytest.mark.parametrize("start", ["cold", "warm"])
@pytest.mark.parametrize("moment", RUN_MOMENTS)
def test_a_run_goes_on_exactly_or_names_the_file(tmp_path, moment, start):
    folder = tmp_path / "damaged"
    job = partial(run, folder, start=start, hpo="per-cycle", budget=12)
    check_every_damage(job, folder, RUN_MOMENTS[moment])
