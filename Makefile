# Every target sets itself up: it needs Python 3.11 or newer and make, nothing else.

VENV ?= .venv
WORKERS ?= 2
FLOOR ?= .venv-floor
FLOOR_TESTS ?= tests/models tests/training tests/student tests/export
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help install demo test test-slow test-notebook test-floor check verify format docs constraints clean
.DEFAULT_GOAL := help

help:  ## say what can be made
	@sed -n 's/^\([a-z-]*\):.*##/  make \1\t/p' Makefile | expand -t 24

install: $(READY)  ## install into .venv (VENV=another); all targets below do so themselves

demo: $(READY)  ## distil the bundled model three ways and show the result (QUICK=1: a small one)
	$(BIN)/fewstep quickstart $(if $(filter-out 0,$(QUICK)),--quick)

test: $(READY)  ## run the quick tests
	$(PYTEST) -n $(WORKERS) -m "not slow"

test-slow: $(READY)  ## run the slow tests (ONLY="killed or stopped": those of these names)
	$(PYTEST) -n $(WORKERS) -m slow $(if $(ONLY),-k "$(ONLY)") || [ $$? -eq 5 ]  # 5: there are none

test-notebook: $(READY)  ## run the notebook from a clean kernel, both of its ways, small
	$(PYTEST) -n $(WORKERS) -m slow tests/notebooks

test-floor:  ## run the tests of models, training and sampling on the oldest versions, in .venv-floor
	@$(PYTHON) tools/install.py $(FLOOR) constraints/floor.txt
	OMP_NUM_THREADS=1 $(FLOOR)/bin/python -m pytest -n $(WORKERS) -m "not slow" $(FLOOR_TESTS)

check: $(READY)  ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

verify: $(READY)  ## renew the truth bench's committed results, plot and page (5 minutes)
	$(BIN)/fewstep verify -o build/verify
	cp build/verify/verify.json benchmarks/results/
	cp build/verify/verify.png docs/images/
	$(BIN)/python tools/figures.py

format: $(READY)  ## put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)  ## build the documentation into site/, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

constraints:  ## write constraints/current.txt anew (TORCH=2.13.0 chooses another torch)
	$(or $(PYTHON),python3) tools/constraints.py $(TORCH)

clean:  ## remove what was built, but no runs
	rm -rf $(VENV) $(FLOOR) site build .pytest_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints/current.txt tools/install.py fewstep/__init__.py
	@$(if $(PYTHON),,$(error fewstep needs Python 3.11 or newer and found none; install it, \
		or say where it is: make PYTHON=/path/to/python3.12))
	@$(PYTHON) tools/install.py $(VENV)
	@touch $@
