"""The commands. Flags and YAML files share one schema.

What needs torch is imported by the command that needs it, so that help and refusals are quick.
"""

from __future__ import annotations

import signal
import sys
import types

import click

from alhpo.base.errors import AlhpoError
from alhpo.cli.cache import cache
from alhpo.cli.optuna import optuna
from alhpo.cli.report import report
from alhpo.cli.run import run
from alhpo.cli.session import ask, export, new, predict, review, status, tell, undo
from alhpo.cli.study import study
from alhpo.cli.tune import tune

__all__ = ["main", "run_main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="alhpo")
def main() -> None:
    """Deep active learning with hyperparameter optimisation in the loop."""


_SESSION = (new, ask, tell, status, review, undo, export, predict)
for _command in (run, tune, study, report, optuna, cache, *_SESSION):
    main.add_command(_command)


def run_main() -> None:
    """Entry point. An AlhpoError becomes one line and exit status 2; SIGTERM acts like Ctrl-C."""
    cause = signal.SIGINT

    def terminate(number: int, frame: types.FrameType | None) -> None:
        """Stop at SIGTERM, before the batch system kills the process some seconds later."""
        nonlocal cause
        cause = signal.SIGTERM
        signal.signal(number, signal.SIG_IGN)  # a second SIGTERM must not interrupt the first
        raise KeyboardInterrupt  # the only exception that Ray passes on while it waits

    signal.signal(signal.SIGTERM, terminate)
    try:
        sys.exit(main(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except AlhpoError as error:
        click.echo(f"alhpo: {error}", err=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that cannot be written
        click.echo(f"alhpo: {error}. What was recorded so far is safe.", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        word = "terminated" if cause == signal.SIGTERM else "interrupted"
        click.echo(f"alhpo: {word}. The same command goes on from here.", err=True)
        sys.exit(128 + cause)
