PYTHON ?= python3
EXTRAS ?= dev,qlora,parquet,generation,deepspeed
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SLURM := slurmctld slurmd slurm-client munge

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slurm test-long lint clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## create the environment in .venv

# torch comes first and alone: a bare `torch>=2.6` would resolve to the newest CUDA build.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

quickstart: install  ## tune the tiny model on handwritten digits: minutes, on a laptop
	$(BIN)/emu2-lit fit quickstart/chat

# Every worker of pytest takes up to 3 GB, and some tests start four processes: more than four workers gain little.
test: install  ## run the tests (a quarter of an hour on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist worksteal

test-slurm: install  ## run the tests on a real SLURM of this machine alone (under 4 minutes)
	@command -v slurmctld > /dev/null || test -x /usr/sbin/slurmctld || { \
	  test "$$(id -u)" = 0 && command -v apt-get > /dev/null && \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(SLURM) > /dev/null; } || { \
	  echo "SLURM is missing. On Debian or Ubuntu, as root: apt-get install $(SLURM)" >&2; exit 2; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slurm tests/slurm

test-long: install  ## run the tests that take minutes each: the full quickstarts
	$(BIN)/python -m pytest -q -m long

lint: install  ## check style and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/lint-imports

clean:  ## remove the environment, caches and builds; runs and data stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
