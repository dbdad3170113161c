"""How long does the command line take to answer? Against a bare interpreter, measured in turn."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna

from hpo import HistoryStorage

ROUNDS = 15
TARGET_RATIO = 10.0


def main() -> None:
    """Print the medians and the ratios; fail where `--help` misses its target."""
    hpo = str(Path(sys.executable).with_name("hpo"))
    with tempfile.TemporaryDirectory() as folder:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(storage=HistoryStorage(f"sqlite:///{folder}/hpo.db"), study_name="past")
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=20)
        commands = {
            "bare interpreter": [sys.executable, "-c", "pass"],
            "hpo --help": [hpo, "--help"],
            "hpo studies": [hpo, "studies"],
            "hpo show": [hpo, "show", "past"],
        }
        seconds = {name: [] for name in commands}
        for _ in range(ROUNDS + 1):
            for name, command in commands.items():
                seconds[name].append(measure(command, folder))
    bare = statistics.median(seconds["bare interpreter"][1:])  # the first round only warms the disk cache
    for name, measured in seconds.items():
        median = statistics.median(measured[1:])
        print(f"{name:18} {median:.3f} s   {median / bare:5.1f} x bare")
    ratio = statistics.median(seconds["hpo --help"][1:]) / bare
    assert ratio <= TARGET_RATIO, (
        f"hpo --help takes {ratio:.1f} times a bare interpreter, the target is {TARGET_RATIO:g}"
    )


def measure(command: list[str], folder: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
