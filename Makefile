# make repro · make test are the two commands; each sets up what it needs. `make help` lists all.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LOCK   := requirements/dev.lock
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-all check format lock clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## the environment, from the hashed lock

$(VENV)/.ready: $(LOCK) requirements/bootstrap.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Python 3.11 or newer is needed; say PYTHON=<interpreter>"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "make: no venv here; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/bootstrap.lock
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode $(LOCK)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

repro: setup ## the whole line: data, training, a promoted model, and its summary
	dvc repro
	@segline summary

test: setup ## the tests
	python -m pytest

test-all: setup ## the tests, the slow ones too
	python -m pytest -m ""

check: setup ## formatting, lint, types
	ruff format --check .
	ruff check .
	mypy

format: setup ## format and mend what can be mended
	ruff format .
	ruff check --fix .

lock: setup ## make the locks anew from pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --all-extras -o $(LOCK) pyproject.toml
	for image in data train server; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -c $(LOCK) \
	    $$([ $$image = data ] || echo --extra $$image) -o requirements/$$image.lock pyproject.toml || exit; done
	grep -A 1000 '^uv==' $(LOCK) | awk 'NR > 1 && /^[a-z]/ {exit} {print}' > requirements/bootstrap.lock

clean: ## remove what the line made; the environment and the registry stay
	rm -rf data
