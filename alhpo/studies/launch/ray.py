"""Cells as tasks of Ray, on one machine or on a cluster whose nodes share the study's folder."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from alhpo.base.child_processes import thread_settings
from alhpo.base.errors import ConfigurationError
from alhpo.base.schema import Settings
from alhpo.runs.observer import Observer
from alhpo.studies.cell_runner import Outcome
from alhpo.studies.config import Cell
from alhpo.studies.launch.machine import may_use_gpus, physical_cores
from alhpo.studies.launch.remote import pack, run_packed

#: Seconds to wait for a connection to a cluster.
PATIENCE = 10.0
#: Bytes of a local cluster's object store: only outcomes pass through it.
OBJECT_STORE = 128 * 2**20


class RayOptions(Settings):
    """Options of the Ray launcher."""

    address: str | None = Field(
        None,
        description="Address of the cluster; by default RAY_ADDRESS, else this machine.",
    )
    cpus_per_cell: float = Field(1, gt=0, description="CPUs of a cell, and its threads.")
    gpus_per_cell: float | None = Field(
        None, ge=0, description="GPUs of a cell; by default 1 if the cluster has GPUs."
    )
    workers: int | None = Field(
        None, ge=1, description="Cells that run at the same time; by default as many as fit."
    )


class RayLauncher:
    """Runs each cell as a Ray task, on a node that Ray chooses.

    ``close`` stops a cluster that was started here; one that was joined keeps running.
    """

    options_class: ClassVar[type[Settings]] = RayOptions

    @classmethod
    def for_cells(
        cls, options: RayOptions, cells: Sequence[Cell], observer: Observer | None
    ) -> RayLauncher:
        """See ``LauncherClass``."""
        return cls(options, gpus=may_use_gpus(cells, "ray"))

    def __init__(self, options: RayOptions, *, gpus: bool = True) -> None:
        """
        Args:
            options: the options of the launcher.
            gpus: whether cells may use GPUs.

        Raises:
            ConfigurationError: Ray is not installed, there is no cluster at the address, or none
                of its nodes has room for a cell.
        """
        self._ray = ray = _import_ray()
        self._cells: dict[Any, Cell] = {}
        self._joined = ray.is_initialized()
        if not self._joined:
            _connect(ray, options.address or os.environ.get("RAY_ADDRESS"))
        try:
            self._need = {"CPU": options.cpus_per_cell, "GPU": options.gpus_per_cell}
            if options.gpus_per_cell is None:
                some = gpus and ray.cluster_resources().get("GPU", 0) >= 1
                self._need["GPU"] = 1.0 if some else 0.0
            self._workers = options.workers
            if not self._workers and not self._room():
                raise ConfigurationError(
                    f"No node of the Ray cluster has room for a cell: it needs {self._need}, and "
                    f"the nodes have {self._nodes()}. Lower cpus_per_cell or gpus_per_cell, or "
                    "give workers if the cluster grows on demand."
                )
            self._task = ray.remote(_task).options(
                num_cpus=self._need["CPU"],
                num_gpus=self._need["GPU"],
                max_retries=0,  # the scheduler submits lost cells again, for all launchers
                runtime_env={"env_vars": thread_settings(max(1, int(options.cpus_per_cell)))},
            )
        except BaseException:
            self.close()
            raise

    @property
    def capacity(self) -> int:
        """Cells that fit on the cluster now; it may grow or shrink."""
        return self._workers or max(1, self._room())

    def submit(self, cell: Cell) -> None:
        with suppress(OSError):  # the task reports it
            cell.path.mkdir(parents=True, exist_ok=True)
        self._cells[self._task.remote(pack(cell), str(Path.cwd()), str(cell.path))] = cell

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        if not self._cells:
            return []
        done, _ = self._ray.wait(list(self._cells), timeout=timeout)
        return [self._outcome(task) for task in done]

    def close(self) -> None:
        for task in self._cells:
            with suppress(Exception):  # the task or the cluster may be gone
                self._ray.cancel(task, force=True)
        if not self._joined:
            self._ray.shutdown()

    def _outcome(self, task: Any) -> Outcome:
        cell = self._cells.pop(task)
        errors = self._ray.exceptions
        try:
            return Outcome.from_json(self._ray.get(task))
        except errors.RayTaskError as error:  # before the cell began
            if isinstance(error.cause, NotADirectoryError):  # as all cells on that node would
                raise ConfigurationError(str(error.cause)) from None
            return Outcome(cell.index, "failed", f"its Ray task failed: {error.cause!r}")
        except errors.RayError as error:
            return Outcome(cell.index, "lost", f"its Ray task was lost: {type(error).__name__}")

    def _nodes(self) -> list[dict[str, float]]:
        nodes = (node["Resources"] for node in self._ray.nodes() if node["Alive"])
        return [{name: node.get(name, 0.0) for name in self._need} for node in nodes]

    def _room(self) -> int:
        """Cells that the nodes hold at once."""
        needs = {name: amount for name, amount in self._need.items() if amount}
        return sum(
            int(min(node[name] / amount for name, amount in needs.items()))
            for node in self._nodes()
        )


def _task(cell: str, folder: str, path: str) -> str:
    """Run a cell on a node, in the working directory of the main process."""
    if not Path(folder, path).is_dir():
        raise NotADirectoryError(
            f"Node {socket.gethostname()} does not have the cell's folder {Path(folder, path)}, or "
            "cannot make it. Put the study on a file system that all nodes share."
        )
    os.chdir(folder)
    return run_packed(cell)


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ConfigurationError(
            f"Launcher 'ray' needs Ray ({error}). Install it: pip install \"alhpo[ray]\", or use "
            "launcher local."
        ) from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    own: dict[str, Any] = {}
    _check_listening(address)
    if address in (None, "local"):
        own = {"num_cpus": physical_cores(), "object_store_memory": OBJECT_STORE}
        own["include_dashboard"] = False
    try:
        with _no_usage_statistics(), _same_signals():
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **own,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"No Ray cluster at {address or 'local'}: {error}") from error


def _check_listening(address: str | None) -> None:
    """Refuse an address HOST:PORT where nothing listens; Ray would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except OSError as error:
        raise ConfigurationError(
            f"No Ray cluster at {address}: {error}. Give the address of the head node, with "
            "port 6379 unless the cluster was started with another."
        ) from None


@contextmanager
def _same_signals() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces when it starts a cluster."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and signal.getsignal(signal.SIGTERM) is not before:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _no_usage_statistics() -> Iterator[None]:
    """Ray sends no usage statistics for a cluster started in the block."""
    name = "RAY_USAGE_STATS_ENABLED"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
