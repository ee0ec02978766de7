# `make help` lists the targets. Everything is installed into .venv, which is made on first use.

PYTHON ?= python3
VENV ?= .venv
# Further arguments for pip, such as an index that has CPU builds of torch.
PIP_ARGS ?=

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --no-input --disable-pip-version-check \
	$(if $(CI),--quiet) $(PIP_ARGS)
SOURCES := setup.py constraints.txt Makefile

# heareval's own pins cannot be met, so it goes in without them, beside what setup.py lists.
HEAREVAL := heareval==2021.1.3
# Asks for PyAudio, which must be compiled, to play sound; rendering needs none.
SYNTHESISER := tinysoundfont==0.3.7
# Asks for an older soxr than ours, and runs with it.
AUGMENTATIONS := audiomentations==0.43.1 numpy-minmax==0.6.0 numpy-rms==0.7.0 python-stretch==0.3.1
# Both validators are tested. They share one import name, so each has a folder of its own.
VALIDATORS := 2021.0.2 2021.0.6

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check lint types docs unit test-slow soak clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.hear-eval  ## Score the model on the demo tasks; the first run installs it
	$(BIN)/hear-eval --module myna_plugin --demo --grid faster --grid-points 2

test: lint types docs unit  ## All that CI runs: style, layers, types, documents, tests, the wheel

check: test  ## The same as test

lint: $(VENV)/.dev  ## Style (ruff) and layers (import-linter)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev  ## Static types (mypy)
	$(BIN)/mypy

docs: $(VENV)/.dev  ## The documents as pages, in build/site; a dead link or name is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Small tensors: one thread is fastest, and leaves no score to the number of cores. Files of tests
# are shared out among processes, one a core.
unit: $(VENV)/.dev  ## Tests and doctests; one test builds the wheel and imports all of it
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --durations=10

test-slow: $(VENV)/.dev  ## The tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow --durations=10

soak: $(VENV)/.dev  ## Kill runs at random moments: is anything lost? (an hour)
	$(BIN)/python -m benchmarks.soak --at-once 2

clean:  ## Remove .venv, build products, caches and the demo's results
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) not found: install Python 3.10 or newer, or say make PYTHON=..." >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "$$($(PYTHON) --version) is too old: Python 3.10 or newer is needed;" \
			"say make PYTHON=..." >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.hear-eval: $(SOURCES) | $(BIN)/python
	@echo "Installing into $(VENV): a few minutes, mostly torch"
	$(INSTALL) -c constraints.txt -e '.[hear-eval]'
	$(INSTALL) --no-deps $(HEAREVAL)
	@touch $@

$(VENV)/.dev: $(SOURCES) | $(BIN)/python
	@echo "Installing into $(VENV): a few minutes, mostly torch"
	$(INSTALL) -c constraints.txt -e '.[dev]'
	$(INSTALL) --no-deps $(HEAREVAL) $(SYNTHESISER) $(AUGMENTATIONS)
	for version in $(VALIDATORS); do \
		$(INSTALL) --no-deps --ignore-requires-python --upgrade \
			--target $(VENV)/hearvalidator-$$version hearvalidator==$$version || exit 1; \
	done
	@touch $@ $(VENV)/.hear-eval
