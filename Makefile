# Every target makes its own environment first, so each works on a fresh machine with python3 and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo test fuzz check bench bench-tuner bench-decisions bench-trainers reliability clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

install: $(READY)  ## the environment in .venv (the other targets make it themselves)

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(READY)

demo: $(READY)  ## three related tasks, tuned one after the other: cold, and with history
	$(BIN)/python -m tests.examples.demo

test: $(READY)  ## every test (SQLite, PostgreSQL, MLflow and Lightning for real)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

fuzz: $(READY)  ## the generated tests with many new examples
	$(BIN)/python -m pytest -n auto --dist worksteal --hypothesis-profile=fuzz -m "not gpu" $(shell grep -rl "from hypothesis" tests --include='test_*.py')

check: $(READY)  ## formatting, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## the measured figures, side by side with their rivals
	$(BIN)/python -m tests.benchmarks

bench-tuner: $(READY)  ## the tuner raced against its rivals on the recorded tables in HPO_TABLES
	$(BIN)/python -m tests.benchmarks.tuner

bench-decisions: $(READY)  ## intervals, best, pruning, stopping and plans measured on the recorded tables in HPO_TABLES
	$(BIN)/python -m tests.benchmarks.decisions

bench-trainers: $(READY)  ## what a trial costs beside its training, and what compression brings
	$(BIN)/python -m tests.benchmarks trial_overhead trial_start fit_overhead pulse compression

reliability: $(READY)  ## what must not go wrong: kills, restarts, full disks, in full (SQLite and PostgreSQL)
	$(BIN)/python -m tests.reliability

clean:  ## remove the environment and what the demo left
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache
