# One line each; the logic is in `python -m saebook COMMAND --help`.
PYTHON ?= python3
PARAMS ?= laptop
NWB ?=
PROFILE ?= local
VENV := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help install handbook test test-all lint types lab status site bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 18

install:  ## .venv with the exact versions of constraints.txt
	@PYTHONPATH=lib $(PYTHON) -m saebook install

handbook: install  ## run the chapters, build the report; NWB='file, folder or glob' PARAMS=smoke|laptop|gpu
	@$(VENV) -m saebook handbook --params '$(PARAMS)' --profile '$(PROFILE)' --nwb '$(NWB)'

test: lint types  ## every check but the slow ones, nine minutes on two cores
	@OMP_NUM_THREADS=1 $(VENV) -m pytest $(CHECKS) -m 'not slow'

test-all: lint types  ## every check
	@OMP_NUM_THREADS=1 $(VENV) -m pytest $(CHECKS)

lint: install
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .

types: install
	@.venv/bin/pyright

lab: install  ## JupyterLab on the chapters
	@$(VENV) -m saebook lab

status: install  ## table of all runs
	@$(VENV) -m saebook status

bench: install  ## how fast a training step is, beside its matrix products; on a GPU, beside what is asked
	@$(VENV) -m saebook bench

site: install  ## rebuild the report from the runs there are
	@$(VENV) -m saebook site

# Fast checks first: library examples, units, then every chapter through nbval, then browsers.
CHECKS := -n auto --maxprocesses 4 --dist loadfile --doctest-modules --nbval-lax lib tests/unit tests/gpu tests/notebooks $(wildcard notebooks/*.ipynb) tests/ui
