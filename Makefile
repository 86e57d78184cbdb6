# Everything runs in .venv, which the first target that needs it creates.
# A fresh machine needs make and Python >= 3.11 only:  make demo   make test   make demo PYTHON=python3.12
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-all torture fuzz lint types check \
	bench bench-rollback bench-detection bench-average-run-length bench-forecasting bench-precursors \
	bench-changes bench-mixing bench-recovery bench-library clean

PYTHON ?= python3
WORKERS ?= 2
DEMO_ARGS ?=
PYTEST_ARGS ?=

BIN := .venv/bin
READY := .venv/.ready
# One thread a process: the models of tests and demo are too small for more, and the workers share the cores.
# pytest looks no higher than tests/: it would import this folder as a package of whatever name the clone has.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --confcutdir=tests -n $(WORKERS)

help:                ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 24

demo: $(READY)       ## a run that goes wrong, is caught and corrected, beside its uncorrected twin
	$(BIN)/midcourse demo $(DEMO_ARGS)

test: $(READY)       ## the fast tests
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: $(READY)  ## the others: whole runs, several processes, a real Prometheus where there is one
	$(PYTEST) -m slow $(PYTEST_ARGS)

test-all: $(READY)   ## both
	$(PYTEST) $(PYTEST_ARGS)

torture: $(READY)    ## kill a training run 200 times, then one of two processes 40 times
	cd tests/controller && OMP_NUM_THREADS=1 ../../$(BIN)/python torture.py --kills 200
	cd tests/controller && OMP_NUM_THREADS=1 ../../$(BIN)/python torture.py --kills 40 --ranks 2

fuzz: $(READY)       ## spoil 100 000 policy files; none may end in a traceback, hang, or be refused without a place
	$(BIN)/python tests/policies/mutations.py --count 100000 --seed 0

lint: $(READY)       ## ruff
	$(BIN)/ruff check .

types: $(READY)      ## mypy --strict, through a link that gives the folder the package's name
	@mkdir -p build/types && ln -sfn ../.. build/types/midcourse
	MYPYPATH=build/types $(BIN)/mypy -p midcourse
	MYPYPATH=build/types:examples:benchmarks $(BIN)/mypy --explicit-package-bases examples benchmarks

check: lint types test test-slow  ## all that the continuous integration runs

bench: $(READY)      ## what a tick costs: by part, signal and rule, in memory; BENCH_ARGS=--long a million of them
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/overhead.py $(BENCH_ARGS)

bench-rollback: $(READY)  ## snapshot and restore beside a plain copy and checkpoints
	$(BIN)/python benchmarks/rollback.py --json

bench-detection: $(READY)  ## false alarms, misses and delays beside the peers; BENCH_ARGS="--traces DIR"
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/detection.py $(BENCH_ARGS)

bench-average-run-length: $(READY)  ## do alarms keep their budget, on noise of many kinds? some ten minutes
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/average_run_length.py $(BENCH_ARGS)

bench-forecasting: $(READY)  ## errors, intervals and cost of forecasts; BENCH_ARGS="--traces DIR" for recorded runs
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/forecasting.py $(BENCH_ARGS)

bench-precursors: $(READY)  ## what announces a blow-up, and how many steps before the loss; some ten minutes
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/precursors.py $(BENCH_ARGS)

bench-changes: $(READY)  ## changes that are meant, and faults right after them; some ten minutes
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/changes.py $(BENCH_ARGS)

bench-mixing: $(READY)   ## laws that set the mix, beside equal shares; some fifteen minutes
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mixing.py $(BENCH_ARGS)

bench-recovery: $(READY)  ## runs with one fault each: peers, hindsight, Midcourse; an hour, BENCH_ARGS=--quick minutes
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/recovery.py $(BENCH_ARGS)

bench-library: $(READY)  ## real runs under each shipped policy: healthy ones, and the fault it is made for
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/library.py $(BENCH_ARGS)

clean:               ## remove the environment, caches and built files
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and alone: once it is there no later requirement makes pip look for another build of it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Midcourse needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q torch==2.13.0 -c constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@
