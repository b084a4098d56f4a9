"""Paired differences of test accuracy between the strategies of a study with one setting.

    python benchmarks/paired.py FOLDER REFERENCE [SEEDS]

For each strategy, in percentage points: the mean over seeds ± standard deviation of the accuracy
minus that of REFERENCE with the same seed, the mean over the cycles and with the last number of
labels, and Student's 95 % interval of the former. Only seeds that all strategies have finished
count (or the first SEEDS of them).
"""

from __future__ import annotations

import sys

from alhpo.reports.load import load_findings
from alhpo.reports.statistics import mean_interval, summary


def main(folder: str, reference: str, most: int | None = None) -> None:
    """Print the table."""
    findings = load_findings(folder)
    done = {one.cell.index for one in findings.cells if one.state == "finished"}
    frame = findings.curves[findings.curves["cell"].isin(done)]
    finished = frame.groupby("seed")["strategy"].nunique()
    seeds = finished[finished == len(findings.strategies)].index[:most]
    frame = frame[frame["seed"].isin(seeds)]
    last = frame["n_labeled"].max()
    accuracy = 100 * frame.pivot_table("accuracy", "seed", ["strategy", "n_labeled"])
    print(f"{len(seeds)} seeds; minus {reference}; mean over the cycles, with {last} labels")
    for name in findings.strategies:
        both = accuracy[name] - accuracy[reference]
        mean, end = both.mean(axis=1), both[last]
        one, other, (low, high) = summary(mean), summary(end), mean_interval(mean)
        print(
            f"{name:32} {accuracy[name].to_numpy().mean():6.2f}  {one.mean:+6.2f} ± {one.std:.2f} "
            f"({low:+.2f} to {high:+.2f})  {other.mean:+6.2f} ± {other.std:.2f}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]))
