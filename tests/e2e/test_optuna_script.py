"""Does the plain Optuna script of the README work as it stands, and profit from its first run in its second?"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "examples" / "plain_optuna.py"


def run(folder: Path) -> tuple[float, float]:
    done = subprocess.run([sys.executable, "-W", "error::DeprecationWarning", str(SCRIPT)], cwd=folder, check=True,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    found = re.search(r"first trial (\S+), best of 20 (\S+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    return float(found[1]), float(found[2])


def test_the_second_run_starts_where_the_first_arrived(tmp_path: Path) -> None:
    _, best = run(tmp_path)
    first_of_second, best_of_second = run(tmp_path)
    assert first_of_second <= best + 1e-3
    assert best_of_second <= first_of_second
