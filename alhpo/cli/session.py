"""``alhpo new``, ``ask``, ``tell``, ``status``, ``review``, ``undo``, ``export``, ``predict``."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alhpo.base.errors import ConfigurationError
from alhpo.cli.options import given_settings, setting_options, with_hyperparameters
from alhpo.runs.config_files import read_config_file
from alhpo.sessions.settings import EXPORTS, QUESTIONS, SessionSettings

if TYPE_CHECKING:
    from rich.console import Console

    from alhpo.sessions.handover import Predicted
    from alhpo.sessions.status import Status
    from alhpo.sessions.telling import Recorded

_PLACE = click.Path(path_type=Path)
_session = click.argument("session", type=_PLACE)
_by = click.option("--by", metavar="NAME", help="Who says so; by default the user of this machine.")
_image_url = click.option(
    "--image-url",
    metavar="PREFIX",
    help="For label-studio: what stands before the path of a photo in its address; by default "
    "/data/local-files/?d=PHOTOS/ with the name of the folder of photos.",
)


@click.command()
@_session
@click.option("--classes", metavar="A,B,...", help="Names of the classes; more may follow later.")
@click.option("--labels", type=_PLACE, help="Labels that there are already, as for tell.")
@_by
@setting_options(SessionSettings, ())
def new(
    session: Path,
    classes: str | None,
    labels: Path | None,
    by: str | None,
    config_file: Path | None,
    hyperparameters: tuple[str, ...],
    **flags: Any,
) -> None:
    """Begin a session: photos that people are to label, in the folder SESSION.

    Photos are known by their content, so that they may be renamed, moved, added and removed later.
    All settings stand in SESSION/session.yaml and may be changed there.
    """
    from alhpo.sessions.session import Session

    settings = read_config_file(config_file) if config_file else {}
    settings = with_hyperparameters(settings | given_settings(flags), hyperparameters)
    images = settings.pop("images", None)
    if images is None:
        raise ConfigurationError("Setting 'images' is missing. Give the photos: --images FOLDER.")
    names = [] if classes is None else [name.strip() for name in classes.split(",")]
    begun = Session.new(session, images, classes=names, labels=labels, by=by, **settings)
    _show_status(begun.status(), begun.settings.eval)


@click.command()
@_session
@click.option("-n", "number", type=click.IntRange(1), default=100, show_default=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(QUESTIONS),
    default="csv",
    show_default=True,
    help="A table to fill in, tasks of Label Studio, or copies of the photos to sort.",
)
@click.option("--out", type=_PLACE, help="File or folder to write; by default in SESSION/asked.")
@click.option(
    "--evaluation", is_flag=True, help="Photos that are kept for evaluation, at random; no fit."
)
@click.option("--pending", is_flag=True, help="Write all questions that are open once more.")
@_image_url
@_by
def ask(
    session: Path,
    number: int,
    form: str,
    out: Path | None,
    evaluation: bool,
    pending: bool,
    image_url: str | None,
    by: str | None,
) -> None:
    """Fit a model on all labels, and write the photos to label next into a file for people.

    Fill in the column label: a class, ? if nobody can tell, - to take a label or a question back.
    Then hand the file in with tell.
    """
    from alhpo.runs.progress import RichObserver, make_console
    from alhpo.sessions.session import Session

    opened = Session(session)
    if pending:
        if out is None:
            raise ConfigurationError("--pending needs a place to write to: --out FILE.")
        questions = opened.ask_again(out=out, format=form, image_url=image_url)
        click.echo(f"{len(questions)} photos, once more: {out}")
        return
    with RichObserver(make_console()) as observer:
        questions = opened.ask(
            number,
            out=out,
            format=form,
            evaluation=evaluation,
            image_url=image_url,
            by=by,
            observer=observer,
        )
    less = "" if len(questions) == number else f" ({number} were asked for)"
    click.echo(f"{len(questions)} photos to label{less}: {_short(opened.written)}")


@click.command()
@_session
@click.argument("file", type=_PLACE)
@click.option("--dry-run", is_flag=True, help="Only check, and say what would be recorded.")
@click.option("--add-classes", is_flag=True, help="Take unknown labels as new classes.")
@click.option(
    "--again",
    is_flag=True,
    help="Also take answers that the same person gave before and that were changed since.",
)
@_by
def tell(
    session: Path, file: Path, dry_run: bool, add_classes: bool, again: bool, by: str | None
) -> None:
    """Take in what people say: a table, an export of Label Studio, or folders of classes.

    It may be filled in partly, be late, or be handed in again. If anything in it cannot be used,
    each problem is named and nothing is recorded.
    """
    from alhpo.sessions.session import Session

    recorded = Session(session).tell(
        file, by=by, add_classes=add_classes, again=again, dry_run=dry_run
    )
    click.echo(_said(recorded, dry_run))


@click.command()
@_session
@_by
def undo(session: Path, by: str | None) -> None:
    """Undo the last tell that was not undone yet."""
    from alhpo.sessions.session import Session

    event = Session(session).undo(by=by)
    click.echo(
        f"undone: {len(event.answers)} answers of {event.at} by {event.by}"
        + (f" from {event.source}" if event.source else "")
    )


@click.command()
@_session
def status(session: Path) -> None:
    """Show how a session stands: labels of each class, open questions, people, accuracy."""
    from alhpo.sessions.session import Session

    opened = Session(session)
    _show_status(opened.status(), opened.settings.eval)


@click.command()
@_session
@click.option("-n", "number", type=click.IntRange(1), default=50, show_default=True)
@click.option("--out", type=_PLACE, required=True, help="CSV file to write.")
def review(session: Path, number: int, out: Path) -> None:
    """Write the labels that models disagree with most, for a second look.

    Correct the column label where it is wrong, and hand the file in with tell.
    """
    from alhpo.runs.progress import RichObserver, make_console
    from alhpo.sessions.session import Session

    with RichObserver(make_console()) as observer:
        questions = Session(session).review(number, out=out, observer=observer)
    click.echo(f"{len(questions)} labels to look at again: {out}")


@click.command()
@_session
@click.option(
    "--format",
    "form",
    type=click.Choice(EXPORTS),
    default="csv",
    show_default=True,
    help="A table of all photos, copies by class, tasks of Label Studio, or the model.",
)
@click.option("--out", type=_PLACE, required=True, help="File or folder to write.")
@_image_url
def export(session: Path, form: str, out: Path, image_url: str | None) -> None:
    """Write the labels, or the model, to be used elsewhere."""
    from alhpo.runs.progress import RichObserver, make_console
    from alhpo.sessions.session import Session

    with RichObserver(make_console()) as observer:
        Session(session).export(out, form, image_url=image_url, observer=observer)
    click.echo(f"written: {out}")


@click.command()
@click.argument("paths", nargs=-1, required=True, type=_PLACE, metavar="[SESSION] IMAGES")
@click.option("--model", type=_PLACE, help="Folder of a model from export, instead of SESSION.")
@click.option("--out", type=_PLACE, required=True, help="CSV file to write.")
@click.option("--device", default="auto", show_default=True, help="Device for --model.")
def predict(paths: tuple[Path, ...], model: Path | None, out: Path, device: str) -> None:
    """Predict the classes of the photos in the folder or table IMAGES.

    By the model of a session with all its labels, or by one that export wrote:

    \b
      alhpo predict SESSION IMAGES --out predictions.csv
      alhpo predict --model MODEL IMAGES --out predictions.csv
    """
    if len(paths) != (2 if model is None else 1):
        expected = "SESSION and IMAGES" if model is None else "IMAGES alone, beside --model"
        raise ConfigurationError(
            f"{len(paths)} places are given ({' '.join(map(str, paths))}); expected {expected}."
        )
    from alhpo.runs.progress import RichObserver, make_console
    from alhpo.sessions.handover import free_place, write_predictions

    free_place(out)
    images = paths[-1]
    if model is not None:
        from alhpo.sessions.predicting import predict_with

        found = predict_with(model, images, device=device)
    else:
        from alhpo.sessions.session import Session

        with RichObserver(make_console()) as observer:
            found = Session(paths[0]).predict(images, observer=observer)
    write_predictions(found, out)
    click.echo(_predicted(found, out))


def _predicted(found: list[Predicted], out: Path) -> str:
    bad = [one for one in found if one.problem]
    lines = [f"{len(found) - len(bad)} predictions: {out}"]
    lines += [f"  not an image: {one.path}: {one.problem}" for one in bad]
    return "\n".join(lines)


def _said(recorded: Recorded, dry_run: bool) -> str:
    counts = ", ".join(f"{n} {kind}" for kind, n in recorded.counts.items()) or "nothing new"
    lines = [f"would be recorded: {counts}" if dry_run else counts]
    if recorded.classes:
        lines.append(f"new classes: {', '.join(recorded.classes)}")
    if recorded.unchanged:
        lines.append(f"{recorded.unchanged} known already")
    if recorded.earlier:
        lines.append(
            f"{len(recorded.earlier)} left as they are, as they were changed after that person "
            "said so (--again takes them):"
        )
        lines += [f"  {line}" for line in recorded.earlier]
    return "\n".join(lines)


def _show_status(status: Status, eval_setting: str | None) -> None:
    from rich.table import Table

    from alhpo.base.plain import counted
    from alhpo.runs.progress import make_console
    from alhpo.sessions.status import what_accuracy_means

    console: Console = make_console()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    parts = [f"{status.labelled} labelled", f"{status.pending} asked for", f"{status.open} open"]
    parts += [f"{status.skipped} skipped"] * bool(status.skipped)
    if status.kept:
        parts.append(f"{status.kept} kept for evaluation, of which {status.evaluation} labelled")
    say(f"{status.photos} photos: {', '.join(parts)}")
    if status.gone:
        say(f"labelled, but not there now: {counted(status.gone, 'photo')} (labels are kept)")
    if status.copies:
        say(f"copies of other photos, which count once: {counted(status.copies, 'file')}")
    for path, problem in status.problems:
        say(f"not an image: {path}: {problem}")
    if status.counts:
        say("classes: " + ", ".join(f"{name} {n}" for name, n in status.counts.items()))
    if len(status.people) > 1:
        say("by: " + ", ".join(f"{who} {n}" for who, n in status.people.items()))
    for one in status.agreement:
        kappa = "" if math.isnan(one.kappa) else f", kappa {one.kappa:.2f}"
        say(
            f"{one.people[0]} and {one.people[1]} agree on {100 * one.share:.0f} % of {one.photos} "
            f"photos{kappa}"
        )
    if not status.curve:
        return
    table = Table("labels", "validation", "accuracy", "tuned", "lr", box=None)
    for record in status.curve:
        table.add_row(
            str(record.n_labeled),
            "" if record.validation is None else f"{record.validation['accuracy']:.3f}",
            "" if record.test is None else f"{record.test['accuracy']:.3f}",
            "yes" if record.tuned else "",
            "DIVERGED" if record.diverged else f"{record.configuration.get('lr', math.nan):.2g}",
        )
    console.print(table)
    say(what_accuracy_means(status, eval_setting))


def _short(path: Path | None) -> str:
    """A path as short as it can be typed here."""
    if path is None:
        return ""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
