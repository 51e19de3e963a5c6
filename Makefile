# Every target does its own set-up: nothing but Python (3.11 or newer, with venv) and make is needed.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory
# The project's own environment, whatever else is activated. Compiled modules are kept: tests start hundreds of nodes.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
SEEDS ?= 100
FILE ?=
MINUTES ?= 10
WORKERS ?= auto

.PHONY: help install check test sim planted bench interop suite chaos upgrade-test proto cluster demo format clean

help: ## show this
	@echo 'make TARGET, where TARGET is one of:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

install: $(READY) ## make .venv with the project and its tools (again only when pyproject.toml changes)

$(READY): pyproject.toml scripts/install.sh
	@scripts/install.sh $(VENV)
	@touch $@

check: $(READY) ## ruff, mypy strict, import-linter, generated code up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/proto.py --check

test: $(READY) ## run all tests, WORKERS=auto files at a time; ARGS go to pytest
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

sim: $(READY) ## simulate SEEDS=100 clusters of the real code on virtual time; ARGS go to the simulator
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(ARGS)

planted: $(READY) ## plant bugs, and show by what and how soon each is caught; ARGS go to the script
	$(BIN)/python -m tests.planted $(ARGS)

bench: $(READY) ## measure against a bare replication: a table, JSON and a picture; ARGS go to the script
	$(BIN)/python -m tests.bench $(ARGS)

interop: $(READY) ## real clients of Kafka, each in an environment of its own: a matrix client × feature; ARGS go to the script
	$(BIN)/python -m tests.interop $(ARGS)

suite: $(READY) ## kafka-python's own integration tests against a local cluster; ARGS go to pytest
	$(BIN)/python -m tests.interop.suite $(ARGS)

chaos: $(READY) ## hurt real nodes at random for MINUTES=10, judge what their clients saw, draw it; ARGS go to the script
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(ARGS)

upgrade-test: $(READY) ## upgrade a busy cluster of the version before to this one, node by node, then raise its level
	$(BIN)/python -m tests.upgrade $(ARGS)

proto: $(READY) ## generate raftlog/pb from proto/
	$(BIN)/python scripts/proto.py

cluster: $(READY) ## run three nodes on this machine until Ctrl-C, gRPC on 7101 to 7103
	$(BIN)/raftlog dev --nodes 3 --data-dir var/cluster --base-port 7000 $(ARGS)

demo: $(READY) ## kill a leader under load and prove that nothing is lost; FILE=lines.txt to use your own lines
	@$(BIN)/python scripts/demo.py $(if $(FILE),--file '$(FILE)') $(ARGS)

format: $(READY) ## bring the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what the targets made, but for var/ (the data of make cluster)
	rm -rf $(VENV) bench-out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
