"""Everything that a kill can leave on disk, and processes that go on from there.

A process that is killed leaves its files as they are at that moment, so that one run is enough to
see all that a kill at any moment can leave. Python reports every change to a file or folder to
audit hooks just before it makes it (``shutil``, ``tempfile`` and ``pathlib`` end in the same
calls): ``states_of`` looks at the folder at each of these reports, and once more at the end.
Moments with the same files are one state, for nothing but the files is left of a process. What is
written without a report (bytes that go into an open file, what Rust code of safetensors writes) is
seen as the difference of two neighbouring states. A kill in the middle of it leaves a part of
these bytes: such torn states are added.

``kill_in`` really kills a process in one of these states, so that the tests do not depend on this
reasoning alone.

All processes are forks of one that has imported everything and computed nothing, as starting
Python and importing PyTorch thousands of times would take hours. Even so a process takes longer to
fork and to warm up than the toy work takes, so that ``continued`` gives each process several states
to go on from, one after the other.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from alhpo.base.errors import AlhpoError

#: Changes that Python reports under these names; an "open" is one where it is for writing.
CHANGES = {"os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
#: The exit status of a process that killed itself.
KILLED = 9
#: From how many states a process goes on.
STATES_PER_PROCESS = 20

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["alhpo.studies", "optuna"])  # what is not there is left out


# ------------------------------------------------------------------------------------- folders

#: Where Linux has a file system in memory.
MEMORY = Path("/dev/shm")


@contextmanager
def in_memory(otherwise: Path) -> Iterator[Path]:
    """A new folder in memory where that is possible, for files that are written and removed
    thousands of times."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < 2**30:
        yield otherwise
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Tree:
    """A folder with everything in it.

    Attributes:
        content: the bytes of every file by its path, None for a folder.
        links: files that are another name (a hard link) of one listed before, and of which.
        inodes: the number that the disk has for each file.
    """

    content: dict[str, bytes | None]
    links: dict[str, str] = field(default_factory=dict)
    inodes: dict[str, int] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, folder: Path) -> Tree:
        """What is in the folder now."""
        content: dict[str, bytes | None] = {}
        links: dict[str, str] = {}
        inodes: dict[str, int] = {}
        first_names: dict[int, str] = {}
        for parent, folders, files in os.walk(folder):
            folders.sort()
            inside = os.path.relpath(parent, folder)
            start = "" if inside == "." else f"{inside}/"
            content |= {start + name: None for name in folders}
            for path in sorted(start + name for name in files):
                content[path] = (folder / path).read_bytes()
                inodes[path] = (folder / path).stat().st_ino
                first = first_names.setdefault(inodes[path], path)
                if first != path:
                    links[path] = first
        return cls(content, links, inodes)

    def put(self, folder: Path) -> None:
        """Make the folder this one, whatever it was."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, content in self.content.items():
            if content is None:
                (folder / name).mkdir()
            elif name in self.links:
                os.link(folder / self.links[name], folder / name)
            else:
                (folder / name).write_bytes(content)

    @property
    def files(self) -> list[str]:
        """The paths of its files."""
        return [name for name, content in self.content.items() if content is not None]

    def written(self, name: str, content: bytes) -> Tree:
        """The same with other content in a file, under all names that it has."""
        first = self.links.get(name, name)
        names = [name, first, *(other for other, of in self.links.items() if of == first)]
        folders = [str(parent) for parent in reversed(Path(name).parents[:-1])]
        new = {folder: None for folder in folders if folder not in self.content}
        return Tree(self.content | new | dict.fromkeys(names, content), self.links)

    def without(self, name: str) -> Tree:
        """The same without a file (under this name), or without a folder."""
        gone = {one for one in self.content if one == name or one.startswith(f"{name}/")}
        content = {one: value for one, value in self.content.items() if one not in gone}
        heirs: dict[str, str] = {}
        links = {}
        for other, first in self.links.items():
            if other not in gone and first in gone:
                first = heirs.setdefault(first, other)
            if other not in gone and first != other:
                links[other] = first
        return Tree(content, links)

    def without_random_names(self) -> list[str]:
        """The paths, with what is random in the names of temporary files left out."""
        random_part = r"(?<=\.)(\w{8}(?=\.tmp)|[0-9a-f]{32})"
        return sorted(re.sub(random_part, "RANDOM", name) for name in self.content)


def _half_written(before: Tree, after: Tree) -> Iterator[Tree]:
    """What a kill leaves between two neighbouring states in the middle of a write."""
    known = {before.inodes[name]: before.content[name] for name in before.files}
    written = [  # and not only renamed or linked
        name
        for name in after.files
        if name not in after.links and after.content[name] != known.get(after.inodes[name], b"")
    ]
    for name in written:  # two at a time only where one is a log that stays open
        old, new = before.content.get(name) or b"", after.content[name] or b""
        same = _common_length(old, new)  # of a file that is appended to: all of it
        for length in sorted({same, (same + len(new)) // 2, len(new)}):
            torn = before.written(name, new[:length])
            if torn not in (before, after):
                yield torn


def _common_length(one: bytes, other: bytes) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def _is_temporary(name: str) -> bool:
    return name.endswith(".tmp")


# ----------------------------------------------------------------------------------- processes


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        value: what it returned.
        error: its exception in one line, None where there was none; and the traceback.
        expected: whether that is an error which alhpo raises on purpose.
        exitcode: of its process.
    """

    value: Any = None
    error: str | None = None
    traceback: str = ""
    expected: bool = False
    exitcode: int | None = 0

    @classmethod
    def of(cls, job: Callable[..., Any], *arguments: Any) -> Ended:
        """Run a job here."""
        try:
            return cls(job(*arguments))
        except Exception as error:
            line = f"{type(error).__name__}: {error}"
            expected = isinstance(error, AlhpoError)
            return cls(error=line, traceback=traceback.format_exc(), expected=expected)

    def result(self) -> Any:
        """What the job returned; the test fails where that is nothing."""
        assert self.error is None and self.exitcode == 0, self.traceback or self
        return self.value


def in_process(job: Callable[..., Any], *arguments: Any) -> Ended:
    """Run a job in a process of its own.

    Args:
        job: something that can be pickled, as what it takes and returns.
    """
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_answer, args=(theirs, job, arguments))
    process.start()
    theirs.close()
    try:
        ended = ours.recv()
    except EOFError:  # it was killed
        ended = None
    process.join()
    return ended or Ended(exitcode=process.exitcode)


def _answer(connection: Connection, job: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    connection.send(Ended.of(job, *arguments))


def continued(
    job: Callable[[], Any], folder: Path, states: list[Tree], look: Callable[[Path], Any]
) -> list[Ended]:
    """Put a folder into each of these states and do the job there; with the result of each comes
    what ``look`` then sees in the folder."""
    ended: list[Ended] = []
    for start in range(0, len(states), STATES_PER_PROCESS):
        some = states[start : start + STATES_PER_PROCESS]
        ended += in_process(_continued, job, folder, some, look).result()
    return ended


def _continued(
    job: Callable[[], Any], folder: Path, states: list[Tree], look: Callable[[Path], Any]
) -> list[Ended]:
    ended = []
    for state in states:
        state.put(folder)
        ended.append(Ended.of(lambda: (job(), look(folder))))
    return ended


# --------------------------------------------------------------------------------------- kills


def states_of(job: Callable[[], Any], folder: Path) -> list[Tree]:
    """Every state in which a kill of the job can leave the folder, first to last.

    Neighbours that differ in nothing but the content of a file named ``.….tmp`` are one: the name
    is random, so that only the process which made it could read it.
    """
    seen = whole_states_of(job, folder)
    states: list[Tree] = []
    for before, after in zip([seen[0], *seen[:-1]], seen, strict=True):
        for state in (*_half_written(before, after), after):
            if not states or changed(states[-1], state):
                states.append(state)
    return states


def changed(before: Tree, after: Tree) -> list[str]:
    """The paths in which two states differ in more than the content of temporary files."""
    one, other = _essence(before), _essence(after)
    names = one.content.keys() | other.content.keys()
    found = {n for n in names if one.content.get(n, 0) != other.content.get(n, 0)}
    found |= {n for n in names if one.links.get(n) != other.links.get(n)}
    return sorted(found)


def whole_states_of(job: Callable[[], Any], folder: Path) -> list[Tree]:
    """The same without the torn states, and with every content of temporary files."""
    return in_process(_watched, job, folder).result()


def _essence(tree: Tree) -> Tree:
    return Tree(tree.content | {n: b"" for n in tree.files if _is_temporary(n)}, tree.links)


def _watched(job: Callable[[], Any], folder: Path) -> list[Tree]:
    states: list[Tree] = []
    with at_every_state(folder, states.append):
        job()
    return states


def kill_in(job: Callable[[], Any], folder: Path, state: int) -> bool:
    """Run a job in a process of its own and kill that when it has brought the folder into this
    one of its ``whole_states_of``, counted from 0; returns whether it came to that."""
    ended = in_process(_killed, job, folder, state)
    assert ended.exitcode in (0, KILLED), ended
    return ended.exitcode == KILLED


def _killed(job: Callable[[], Any], folder: Path, state: int) -> None:
    left = state

    def kill(tree: Tree) -> None:
        nonlocal left
        if left == 0:
            os._exit(KILLED)  # as SIGKILL does, without any cleaning up or flushing
        left -= 1

    with at_every_state(folder, kill):
        job()


@contextmanager
def stopped_in(job: Callable[[], Any], folder: Path, state: int) -> Iterator[int]:
    """A process that does a job, stopped (as by Ctrl-Z) in one of the ``whole_states_of`` it, with
    all locks it has then; it is killed in the end. Yields its process id."""
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_stopped, args=(theirs, job, folder, state))
    process.start()
    try:
        assert ours.poll(60), "it never came to that state"
        ours.recv()
        yield process.pid
    finally:
        process.kill()
        process.join()


def _stopped(connection: Connection, job: Callable[[], Any], folder: Path, state: int) -> None:
    left = state

    def stop(tree: Tree) -> None:
        nonlocal left
        if left == 0:
            connection.send(None)
            os.kill(os.getpid(), signal.SIGSTOP)
        left -= 1

    with at_every_state(folder, stop):
        job()


@contextmanager
def at_every_state(folder: Path, see: Callable[[Tree], None]) -> Iterator[None]:
    """Have ``see`` called with each new state of a folder, before it is changed any further.

    For once in a process: an audit hook stays until its end.
    """
    latest: Tree | None = None
    looking = False

    def look() -> None:
        nonlocal latest, looking
        looking = True
        tree = Tree.of(folder)
        if tree != latest:
            latest = tree
            see(tree)
        looking = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in CHANGES or (event == "open" and arguments[2] & WRITING)
        if writes and not looking:
            look()

    sys.addaudithook(hook)
    yield
    look()
