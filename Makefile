# Needs GNU make, git and Python 3.11 or newer; everything else comes into $(VENV).

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
JOBS ?= 2

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCHMARKS := $(sort $(wildcard benchmarks/[a-z]*.py))

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test coverage lint types fuzz bench clean

help: ## Show this list
	@echo "usage: make TARGET [VENV=.venv] [PYTHON=python3] [PYTEST_ARGS='-k name'] [JOBS=2]"
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-12s%s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) ## Make the virtual environment, anew where pyproject.toml changed

quickstart: $(INSTALLED) ## Train on generated scenes: minutes on two cores, a COCO table at the end
	$(BIN)/lightning fit -c configs/quickstart.yaml

test: $(INSTALLED) ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

coverage: $(INSTALLED) ## Run the tests and show the files that they cover least; a third slower
	$(MAKE) test PYTEST_ARGS="--cov --cov-report= $(PYTEST_ARGS)"
	@$(BIN)/coverage report --skip-covered --skip-empty --sort=cover | sed -n -e '1,10p' -e '/^TOTAL/p'

lint: $(INSTALLED) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## Check the type annotations, also as Windows sees them
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pyright --pythonpath $(BIN)/python --pythonplatform Windows

fuzz: $(INSTALLED) ## Read 10,000 damaged files of all kinds; FUZZ_INPUTS=1000 for fewer
	OMP_NUM_THREADS=1 FUZZ_INPUTS=$${FUZZ_INPUTS:-10000} $(BIN)/python -m pytest -q -s tests/fuzz

bench: $(INSTALLED) ## Run every benchmark, one table each
	@set -e; for script in $(BENCHMARKS); do \
		echo "== $$script"; $(BIN)/python "$$script"; echo; \
	done

clean: ## Remove builds, caches and coverage; data, runs and the environment stay
	rm -rf build dist .coverage coverage.xml .pytest_cache .ruff_cache .hypothesis
	find apps backbone benchmarks configs datasets heads tests -name __pycache__ -type d -prune \
		-exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: '$(PYTHON)' is not Python 3.11 or newer; name one: make PYTHON=python3.11" >&2; \
		exit 1; \
	}
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): several minutes the first time."
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps 'trackers>=2.6'  # they would bring a second OpenCV
	@touch $@
