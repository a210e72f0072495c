# `make emulated` runs every case on an emulated Intel and an emulated AMD host; `make test` runs the project's
# own tests. Both set up what they need first.

PY := .venv/bin/python
ARGS ?=

# Compiled Python goes under build/, whatever the environment says: a run starts a process for every host.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/build/pycache

.DEFAULT_GOAL := help
.PHONY: help setup emulated sensitivity trouble test lint types unit bench coverage clean

help:
	@echo 'make emulated   every conformance case on emulated Intel and AMD hosts, with a report'
	@echo 'make test       lint, types and tests of vmmcheck itself'
	@echo 'make sensitivity  which case catches which seeded defect of the reference hypervisor'
	@echo 'make trouble    break something at a random moment of many runs, and look at verdicts and hosts'
	@echo 'make coverage   rules and requirements against cases, their latest verdicts and seeded defects'
	@echo 'make bench      measure guest boots, SSH round trips and how well the emulators are kept busy'
	@echo 'make clean      remove .venv, build and run folders'
	@echo 'ARGS="..." is handed on, for example: make emulated ARGS="--case DAT-01 --host emuamd"'

setup:
	@sh harness/setup.sh

emulated: setup
	@$(PY) -m harness.cli run --lab labs/emulated.toml $(ARGS)

test: lint types unit

lint: setup
	@$(PY) -m ruff check .

types: setup
	@$(PY) -m mypy

unit: setup
	@$(PY) -m pytest tests -n auto --maxprocesses 4 $(ARGS)

sensitivity: setup
	@$(PY) -m harness.cli sensitivity $(ARGS)

trouble: setup
	@$(PY) -m harness.trouble $(ARGS)

coverage: setup
	@$(PY) -m harness.cli coverage $(ARGS)

bench: setup
	@$(PY) -m harness.cli bench $(ARGS)

clean:
	rm -rf .venv build runs .tox .mypy_cache .ruff_cache .pytest_cache
