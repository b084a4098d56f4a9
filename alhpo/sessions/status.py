"""How a session stands."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from alhpo.base.types import CycleRecord
from alhpo.sessions.events import SKIP, State
from alhpo.sessions.photos import Photos, evaluation_share, kept_for_evaluation


@dataclass(frozen=True)
class Agreement:
    """How two people labelled the photos that both labelled.

    Attributes:
        people: the two.
        photos: the number of photos that both labelled.
        share: the share of them with the same class.
        kappa: Cohen's kappa, the agreement beyond chance: 1 is perfect, 0 is chance; NaN if both
            gave all photos one class.
    """

    people: tuple[str, str]
    photos: int
    share: float
    kappa: float


@dataclass(frozen=True)
class Status:
    """How a session stands. Numbers are of photos with different content.

    Attributes:
        photos: photos that are there.
        labelled: those with a class, which models are trained on.
        evaluation: photos with a class that are kept to measure accuracy on.
        kept: photos that are kept for that, labelled or not.
        skipped: those of which nobody could tell the class.
        pending: those that were asked for and not answered.
        open: the rest.
        gone: labelled photos that are not there now; their labels wait for them.
        copies: files with the content of another.
        problems: files that cannot be read, each with the reason.
        counts: labelled photos of each class, those of evaluation included.
        people: photos that each person labelled.
        agreement: of every two people with photos in common.
        curve: the fits.
    """

    photos: int
    labelled: int
    evaluation: int
    kept: int
    skipped: int
    pending: int
    open: int
    gone: int
    copies: int
    problems: tuple[tuple[str, str], ...]
    counts: Mapping[str, int]
    people: Mapping[str, int]
    agreement: tuple[Agreement, ...]
    curve: tuple[CycleRecord, ...]


def status_of(photos: Photos, state: State, eval_setting: str | None) -> Status:
    """How the session with these photos and this state stands."""
    there = set(photos.paths)
    kept = kept_for_evaluation(sorted(there), eval_setting)
    labels = state.labels
    skipped, pending = set(state.skipped), set(state.pending)
    labelled = there & labels.keys()
    counts = state.counts()
    people: dict[str, int] = {}
    for said in state.answers.values():
        for who, answer in said.items():
            people[who] = people.get(who, 0) + (answer != SKIP)
    return Status(
        photos=len(there),
        labelled=len(labelled - kept),
        evaluation=len(labelled & kept),
        kept=len(kept),
        skipped=len(there & skipped),
        pending=len(there & pending),
        open=len(there - labelled - skipped - pending - kept),
        gone=len(labels.keys() - there),
        copies=len(photos.part.copies),
        problems=photos.part.problems,
        counts={name: counts[name] for name in state.classes},
        people=dict(sorted(people.items())),
        agreement=tuple(agreements(state)),
        curve=tuple(fit.cycle_record for fit in state.fits),
    )


def agreements(state: State) -> list[Agreement]:
    """The agreement of every two people who labelled some of the same photos."""
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for said in state.answers.values():
        classes = sorted((who, answer) for who, answer in said.items() if answer != SKIP)
        for (one, first), (other, second) in itertools.combinations(classes, 2):
            pairs.setdefault((one, other), []).append((first, second))
    if not pairs:
        return []
    import numpy as np
    from sklearn.metrics import cohen_kappa_score

    found = []
    for people, answers in sorted(pairs.items()):
        ours, theirs = zip(*answers, strict=True)
        share = sum(a == b for a, b in answers) / len(answers)
        with np.errstate(invalid="ignore"):
            one_class = len({*ours, *theirs}) == 1
            kappa = float("nan") if one_class else float(cohen_kappa_score(ours, theirs))
        found.append(Agreement(people, len(answers), share, kappa))
    return found


def what_accuracy_means(status: Status, eval_setting: str | None) -> str:
    """What the accuracies of the curve say, in honest words."""
    validation = (
        "Validation is measured on labelled photos that were held out in turn. The strategy chose "
        "them, so it compares models and is no accuracy to expect of new photos."
    )
    if eval_setting is None:
        return (
            f"{validation} To know that, keep a random share of the photos: set eval: 0.1 in "
            "session.yaml, and label some with ask --evaluation."
        )
    if evaluation_share(eval_setting) is None:
        return (
            f"Accuracy is measured on {eval_setting}; it is that of new photos as far as those are "
            "like them."
        )
    n = status.evaluation
    if not n:
        return (
            f"{validation} Nothing is measured on the {status.kept} photos that are kept for "
            "evaluation until some have labels: ask --evaluation."
        )
    margin = 0.98 / n**0.5  # of 95 %: 1.96 * sqrt(0.25 / n) at most
    return (
        f"Accuracy is measured on {n} random photos that no model saw: what to expect of new ones "
        f"like them, give or take {100 * margin:.0f} points."
    )
