# Medic.  `make help` lists what there is.  Needs Python 3.11 or later with venv and pip, and make.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Nothing is installed that the lock does not name by its hash, not even to build: oncalendar has no wheel.
LOCKED := $(PIP) install --require-hashes --only-binary :all: --no-binary oncalendar
# Many tests wait for processes that they started, so there are more of them than cores.
JOBS ?= 3
ARGS ?=

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What is installed is known by the lock that it came from: a changed lock installs again.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Medic needs Python 3.11 or later; say which: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.local: requirements/build.txt requirements/local.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) (once; it takes a minute)"
	@$(LOCKED) -r requirements/build.txt
	@$(LOCKED) --no-build-isolation -r requirements/local.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/build.txt requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing the development tools into $(VENV) (once; it takes a minute)"
	@$(LOCKED) -r requirements/build.txt
	@$(LOCKED) --no-build-isolation -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.local

.PHONY: up
up: $(VENV)/.local ## Run everything here: database, broker, API, workers, beat, Flower
	@$(BIN)/medic up $(ARGS)

.PHONY: demo
demo: $(VENV)/.local ## See a service fall silent and heal, in under a minute
	@$(BIN)/medic demo $(ARGS)

.PHONY: test
test: $(VENV)/.dev ## Run the tests (ARGS="-k name" for some of them)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadscope $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## Check style, types, that imports go down only, image and chart
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@for file in docker/Dockerfile; do if [ -f $$file ]; then $(BIN)/hadolint $$file; fi; done
	@$(BIN)/python charts/lint.py

.PHONY: format
format: $(VENV)/.dev ## Put the code into the house style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: bench
bench: $(VENV)/.dev ## Measure (ROWS=ingest for some); writes build/bench.json
	@$(BIN)/python -m bench $(ROWS)

.PHONY: lock
lock: $(VENV)/.dev ## Write the hash-pinned lock anew from pyproject.toml
	@sh requirements/lock.sh $(abspath $(BIN)/uv)

.PHONY: audit
audit: $(VENV)/.dev ## Look for known faults: of our code, of what the lock names; writes build/sbom.json
	@$(BIN)/python requirements/audit.py

.PHONY: clean
clean: ## Remove what was built or installed here; data in .medic stays
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
