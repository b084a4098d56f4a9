"""Do two commits of this repository find the same records? For changes that should change nothing.

    python benchmarks/same_records.py BEFORE [AFTER] [--ignore KEY]...

Each commit (AFTER is by default the working tree) runs in a process of its own, in this environment
on this machine: every HPO mode from a cold and a warm start, the tuning of the pools they left, a
study, and a search alone. Whatever the runs, tunings, study and search recorded is compared but for
times. Ends with status 1 and the first difference of each file where there is one.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]

SETTINGS = {
    "dataset": "digits",
    "model": "resnet10t",
    "strategy": "badge",
    "device": "cpu",
    "precision": "float32",
    "initial_size": 20,
    "acquisition_size": 10,
    "budget": 50,
    "max_epochs": 3,
    "max_budget": 6,
    "num_configurations": 10,
    "validation": "random:0.3",
}
MODES = ("fixed", "per-cycle", "every:2", "final")
STARTS = ("cold", "warm")
#: Keys of what differs from one start to the next.
TIMES = ("time", "second", "identity", "hash", "version")
TUNING = {"labels": 40, "max_budget": 6, "optimizer": "tpe", "max_epochs": 2}


def make(out: Path) -> None:
    """What is compared, by the names at alhpo's door alone."""
    from alhpo import (
        ActiveLearner,
        RunConfig,
        TuneConfig,
        Tuner,
        load_dataset,
        load_study,
        run_experiment,
        run_study,
        tune_pool,
    )

    for mode in MODES:
        for start in STARTS:
            run = RunConfig(**SETTINGS, hpo=mode, start=start, output_dir=str(out / mode / start))
            folder = run_experiment(run).path
            if start == "cold":
                tune_pool(TuneConfig.of_run(run, folder, **TUNING))

    study = out / "study.yaml"
    study.write_text(
        yaml.safe_dump(
            {
                "name": "modes",
                "output_dir": str(out / "study"),
                "settings": SETTINGS | {"strategy": "margin"},
                "grid": {"hpo": ["fixed", "per-cycle"], "seed": [0, 1]},
            }
        )
    )
    run_study(load_study(str(study)))

    learner = ActiveLearner(load_dataset("digits"), model="resnet10t", max_epochs=2, device="cpu")
    learner.label_initial(20)
    objective = learner.objective()
    for optimizer in ("dyhpo", "hyperband", "asha", "tpe", "random", "one-epoch"):
        Tuner(
            objective_function=objective,
            configuration_space=objective.configuration_space,
            max_epochs=2,
            max_budget=6,
            optimizer=optimizer,
            num_configurations=6,
            seed=0,
            output_path=str(out / "search" / optimizer),
        ).run()


def recorded(folder: Path, ignored: tuple[str, ...] = ()) -> dict[str, list]:
    """Each recorded file of a folder, by its path; hashes in folders' names become their order."""
    leave_out = (*TIMES, *ignored)
    files = sorted(folder.rglob("*.jsonl"), key=lambda file: (file.stat().st_mtime, file.name))
    found: dict[str, list] = {}
    for file in files:
        parts = ["experiment" if "experiment_" in one else one for one in file.parts]
        name = "/".join(parts[len(folder.parts) :])
        if file.name == "sessions.jsonl":
            continue  # of versions, machines and times
        entries = [without(leave_out, json.loads(line)) for line in file.read_text().splitlines()]
        found.setdefault(name, []).append(entries)
    return found


def without(words: tuple[str, ...], value):
    if isinstance(value, dict):
        return {
            key: without(words, item)
            for key, item in value.items()
            if not any(word in key for word in words)
        }
    return [without(words, item) for item in value] if isinstance(value, list) else value


def run(source: Path, out: Path, ignored: tuple[str, ...]) -> dict[str, list]:
    out.mkdir()
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--make", str(out)]
    subprocess.run(command, env=environment, cwd=out, check=True, stdout=subprocess.DEVNULL)
    return recorded(out, ignored)


@click.command()
@click.argument("before", required=False)
@click.argument("after", required=False)
@click.option("--ignore", "ignored", multiple=True, help="Leave out keys that hold this word.")
@click.option("--make", "out", hidden=True)
def main(before: str | None, after: str | None, ignored: tuple[str, ...], out: str | None) -> None:
    if out is not None:
        make(Path(out))
        return
    if before is None:
        raise click.UsageError("Give the commit to compare with.")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        results = []
        for name, commit in (("before", before), ("after", after)):
            source = work / f"{name}-source"
            if commit is None:
                source = REPOSITORY
            else:
                archive = work / f"{name}.tar"
                command = ["git", "archive", f"--output={archive}", commit]
                subprocess.run(command, cwd=REPOSITORY, check=True)
                shutil.unpack_archive(archive, source)
            results.append(run(source, work / name, ignored))
        old, new = results
    differences = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    entries = sum(len(one) for searches in new.values() for one in searches)
    print(f"{len(new)} files, {entries} entries; {len(differences)} files differ")
    for name in differences:
        print(name)
        for a, b in zip(old.get(name, []), new.get(name, []), strict=False):
            for one, other in zip(a, b, strict=False):
                if one != other:
                    print(f"  before {json.dumps(one)[:300]}\n  after  {json.dumps(other)[:300]}")
                    break
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
