"""Label Studio in an environment of its own, and what a person does in its pages, over HTTP.

It brings 160 packages, 1 GB, so that installing takes minutes, and the tables of its first start
take minutes more. To try something repeatedly, install it yourself and name its command in the
environment variable ``ALHPO_LABEL_STUDIO``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

TOKEN = "0123456789abcdef" * 2 + "01234567"
#: No usage data, no reports of errors, no look at PyPI; photos of this machine are served.
SETTINGS = {
    "COLLECT_ANALYTICS": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "LATEST_VERSION_CHECK": "false",
    "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
}
PATIENCE = 900  # seconds of the first start, on a machine that has other work


class CannotInstall(Exception):
    """There is no Label Studio here, and pip cannot get it."""


def install(folder: Path) -> Path:
    """The command ``label-studio`` of a new environment, or the one that the environment names."""
    if named := os.environ.get("ALHPO_LABEL_STUDIO"):
        return Path(named)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "label-studio"]
    done = subprocess.run(pip, env=clean, capture_output=True, text=True)
    if done.returncode:
        raise CannotInstall(f"pip cannot install Label Studio: {done.stderr.strip()[-300:]}")
    return folder / "bin/label-studio"


class LabelStudio:
    """A server, and its owner."""

    def __init__(self, address: str) -> None:
        self.address = address

    def request(self, method: str, path: str, body: Any = None) -> bytes:
        """The answer to a request; an ``AssertionError`` with what the server says otherwise."""
        request = urllib.request.Request(
            self.address + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()[:500]!r}") from error

    def _post(self, path: str, body: Any) -> Any:
        return json.loads(self.request("POST", path, body))

    def new_person(self, email: str) -> int:
        return self._post("/api/users/", {"email": email, "username": email.split("@")[0]})["id"]

    def new_project(self, title: str, configuration: str, photos: Path) -> Project:
        """A project that may show the photos of a folder."""
        number = self._post("/api/projects", {"title": title, "label_config": configuration})["id"]
        self._post("/api/storages/localfiles", {"project": number, "path": str(photos)})
        return Project(self, number)


class Project:
    """A project of a server."""

    def __init__(self, server: LabelStudio, number: int) -> None:
        self._server = server
        self._number = number

    def import_tasks(self, tasks: Sequence[Any]) -> None:
        self._server.request("POST", f"/api/projects/{self._number}/import", tasks)

    def tasks(self, ordering: str) -> list[dict[str, Any]]:
        """All tasks in the order of the list, for instance ``-tasks:predictions_score``."""
        path, data = "/api/dm/views/", {"title": ordering, "ordering": [ordering]}
        view = json.loads(
            self._server.request("POST", path, {"project": self._number, "data": data})
        )["id"]
        query = urlencode(
            {"view": view, "project": self._number, "page_size": 1000, "fields": "all"}
        )
        return json.loads(self._server.request("GET", f"/api/tasks?{query}"))["tasks"]

    def next_task(self) -> dict[str, Any]:
        """What a person who labels gets next."""
        return json.loads(self._server.request("GET", f"/api/projects/{self._number}/next"))

    def annotate(
        self, task: int, choice: str = "", *, skip: bool = False, by: int | None = None
    ) -> int:
        """Submit or skip, as the page does, which sends what is chosen with a skip too.

        Returns:
            The number of the annotation.
        """
        annotation: dict[str, Any] = {"result": _result(choice), "lead_time": 2.5}
        annotation |= {"was_cancelled": True} if skip else {}
        annotation |= {} if by is None else {"completed_by": by}
        path = f"/api/tasks/{task}/annotations/?project={self._number}"
        return json.loads(self._server.request("POST", path, annotation))["id"]

    def correct(self, annotation: int, choice: str) -> None:
        body = {"result": _result(choice)}
        self._server.request("PATCH", f"/api/annotations/{annotation}/", body)

    def export(self, kind: str, file: Path) -> Path:
        """Its page "Export": JSON, JSON_MIN or CSV."""
        path = f"/api/projects/{self._number}/export?exportType={kind}"
        file.write_bytes(self._server.request("GET", path))
        return file


def _result(choice: str) -> list[dict[str, Any]]:
    if not choice:
        return []
    tags = {"from_name": "label", "to_name": "image", "type": "choices", "origin": "manual"}
    return [{"id": "region", "value": {"choices": [choice]}} | tags]


@contextmanager
def running(command: Path, folder: Path, document_root: Path) -> Iterator[LabelStudio]:
    """A new server with an owner, whose files lie in ``folder``; it ends with the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--no-browser", "--internal-host", "127.0.0.1", "--port", port]
    arguments += ["--data-dir", folder / "data", "--username", "owner@example.org"]
    arguments += ["--password", "nobody logs in", "--user-token", TOKEN]
    arguments += ["--enable-legacy-api-token"]  # that of --user-token
    environment = SETTINGS | {
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(document_root),
        "HOME": str(folder),  # it also writes into the home folder
        "PATH": os.environ["PATH"],
    }
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [str(part) for part in (command, "start", *arguments)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(address, process, folder / "log.txt")
            yield LabelStudio(address)
        finally:
            _end(process)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=10).close()
        except OSError:
            time.sleep(1)
        else:
            return
    raise AssertionError(f"Label Studio did not start:\n{log.read_text()[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(20)
        except ProcessLookupError:
            process.wait()
        except subprocess.TimeoutExpired:
            continue
        return
