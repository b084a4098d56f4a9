"""The benchmark of GPU training runs, on a CPU and with figures of no meaning."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_all_parts_run_and_their_checks_hold(tmp_path):
    output = tmp_path / "gpu.json"
    command = [sys.executable, SCRIPT, "--tiny", "--device", "cpu", "--output", output]
    command += ["--rounds", "1", "--epochs", "1", "--seeds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text())
    parts = {"checks", "speed", "finetune", "objective", "cycle", "table1"}
    assert set(results) == {"machine"} | parts
    assert len(results["checks"]) == 16 and all(
        value is True for value in results["checks"].values()
    )
    for part in ("speed", "finetune"):
        assert all(row["images_per_second"] > 0 for row in results[part].values())
    rows = [row for rows in results["objective"].values() for row in rows.values()]
    assert len(rows) == 6 and all(row["ratio"] > 0 for row in rows)
    assert all(
        0 <= row["accuracies"][0] <= 100 for n, row in results["table1"].items() if "HP" in n
    )
