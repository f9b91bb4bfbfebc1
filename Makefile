# make repro · make test · make camvid are the three commands; each sets up what it needs. `make help` lists all.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LOCK   := requirements/dev.lock
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup repro camvid camvid-source camvid-drive test test-all test-cluster fuzz check format lock base images push kfp-local clean

ENGINE ?= docker
BASE   ?= docker.io/library/python:3.11-slim-bookworm
# Empty without git, as in an archive of the repository: a git repository around it has another commit.
COMMIT := $(if $(wildcard .git),$(shell git rev-parse --short=12 HEAD 2>/dev/null)$(shell git diff --quiet HEAD 2>/dev/null || echo -dirty))
TAG    ?= $(or $(COMMIT),dev)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## the environment, from the hashed lock

$(VENV)/.ready: $(LOCK) requirements/bootstrap.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Python 3.11 or newer is needed; say PYTHON=<interpreter>"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "make: no venv here; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/bootstrap.lock
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode $(LOCK)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

repro: setup ## the whole line: data, training, a promoted model, and its summary
	@test -e .git || { dvc config --local core.no_scm true; \
	  echo "make: no git here, so DVC works without (core.no_scm in .dvc/config.local); after \`git init\` remove that line"; }
	dvc repro
	@segline summary

camvid: camvid-source setup ## real road scenes in runs/camvid; SOURCE=../camvid, as SegNet released it
	python -m examples.project camvid --source "$(SOURCE)" --into runs/camvid
	cd runs/camvid && dvc repro && segline summary

camvid-source:
	@test -n "$(SOURCE)" || { echo "make: camvid needs SOURCE=<the folder of CamVid as SegNet released it, with train.txt>"; exit 1; }

DRIVE ?= 0001TP

camvid-drive: setup ## after `make camvid`: its best candidate trained without a drive and tested on it; DRIVE=0001TP
	python -m examples.leave_out $(DRIVE) --of runs/camvid --into runs/camvid-without-$(DRIVE)
	cd runs/camvid-without-$(DRIVE) && dvc repro && segline summary

# A module's tests run in one process, as they share servers, models and Ray sessions; four processes need 10 GB.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadscope
# They start hundreds of processes, each of which would compile the sources anew.
test test-all: export PYTHONDONTWRITEBYTECODE :=

test: setup ## the tests
	python -m pytest $(PARALLEL)

test-all: test ## the tests, the slow ones too, one after another as they start clusters and containers
	python -m pytest -m slow

test-cluster: setup ## the tests of the cluster that KUBECONFIG names, which they change: tests/cluster/README.md
	SEGLINE_CLUSTER_TESTS=1 SEGLINE_CLUSTER_REGISTRY=$(or $(REGISTRY),segline) SEGLINE_CLUSTER_TAG=$(TAG) \
	  python -m pytest tests/cluster --ignore-glob '*_suite.py' --ignore-glob '*_parts.py' -rs $(ARGS)

fuzz: setup ## ten minutes of broken parameters, classes, manifests and label files; SEED=1 for others
	python tests/fuzz/run.py --seconds 540 --seed $(or $(SEED),0)

check: setup ## formatting, lint, types
	ruff format --check .
	ruff check .
	mypy

format: setup ## format and mend what can be mended
	ruff format .
	ruff check --fix .

COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header

lock: setup ## make the locks anew from pyproject.toml
	$(COMPILE) --all-extras --group build --group server -o $(LOCK) pyproject.toml
	$(COMPILE) --no-annotate -c $(LOCK) --extra dvc -o requirements/data.lock pyproject.toml
	$(COMPILE) --no-annotate -c $(LOCK) --extra train --extra optuna -o requirements/train.lock pyproject.toml
	$(COMPILE) --no-annotate -c $(LOCK) --group server -o requirements/server.lock
	$(COMPILE) --no-annotate -c $(LOCK) --group build --group sbom -o requirements/build.lock
	grep -A 1000 '^uv==' $(LOCK) | awk 'NR > 1 && /^[a-z]/ {exit} {print}' > requirements/bootstrap.lock

base: ## a base image from Debian's packages, where no image registry can be reached; as root
	sh components/images/debian.sh $(ENGINE) segline/base:bookworm

images: ## the images segline/data, segline/train and segline/mlflow; BASE=segline/base:bookworm after `make base`
	@test -n "$(COMMIT)" || echo "make: no git here, so the images are tagged $(TAG) and name no commit; Kubeflow's cache" \
	  "takes images of one tag for the same: say make $@ TAG=<a new one for each build> COMMIT=<the commit>"
	for image in data train mlflow; do \
	  $(ENGINE) build --quiet --network host --target $$image --build-arg BASE=$(BASE) --build-arg COMMIT=$(COMMIT) \
	    --build-arg VERSION=$(VERSION) --tag segline/$$image:$(TAG) --file components/images/Dockerfile . || exit; done
	$(ENGINE) images --filter reference='segline/*:$(TAG)' --format '{{.Repository}}:{{.Tag}} {{.Size}}'

push: setup ## push the images and attach their bills of materials; REGISTRY=registry.example.org/segline TAG=0.2.0
	@case "$(firstword $(subst /,/ ,$(REGISTRY)))" in *.*/|*:*/|localhost/) ;; *) echo "make: push needs" \
	  "REGISTRY=<host>/<path of the images>, got '$(REGISTRY)'; without a host they would go to Docker Hub"; exit 1;; esac
	for image in data train mlflow; do \
	  $(ENGINE) tag segline/$$image:$(TAG) $(REGISTRY)/$$image:$(TAG) && $(ENGINE) push --quiet $(REGISTRY)/$$image:$(TAG) || exit; done
	python -m pipelines sbom --registry $(REGISTRY) --tag $(TAG) --engine $(ENGINE)

kfp-local: setup images ## the whole pipeline in local containers, from building the images to a promoted model
	python -m pipelines run --local --tag $(TAG)

clean: ## remove what the line made; the environment, the registry and runs/ stay
	rm -rf data
