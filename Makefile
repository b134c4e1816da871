PYTHON ?= python3
EXTRAS ?= dev,qlora,parquet,generation
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-long lint clean

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

test: install  ## run the tests (under 10 minutes on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

test-long: install  ## run the tests that take minutes each: the full quickstarts
	$(BIN)/python -m pytest -q -m long

lint: install  ## check style and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/lint-imports

clean:  ## remove the environment, caches and builds; runs and data stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
