# Every target sets itself up: it needs Python 3.11 or newer and make, nothing else.

VENV ?= .venv
WORKERS ?= 2
FLOOR ?= .venv-floor
MIDDLE ?= .venv-middle
AUDIT ?= .venv-audit
OLD_TESTS ?= tests/models tests/training tests/student tests/export
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help install demo test test-slow test-notebook test-floor test-middle check audit verify screenshots format docs constraints clean
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

define test-old  # of an environment and its versions; QUICK=0 leaves the demo out
	@$(PYTHON) tools/install.py $(1) $(2)
	OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -n $(WORKERS) -m "not slow" $(OLD_TESTS)
	$(1)/bin/fewstep sample bundled "a red heart" -o $(1)/sample.png
	$(if $(filter 0,$(QUICK)),,rm -rf $(1)/demo && $(1)/bin/fewstep quickstart --quick -o $(1)/demo)
endef

test-floor:  ## test with the oldest versions, in .venv-floor, and run the quick demo (QUICK=0: not)
	$(call test-old,$(FLOOR),constraints/floor.txt)

test-middle:  ## the same with versions of 2025, in .venv-middle
	$(call test-old,$(MIDDLE),constraints/middle.txt)

check: $(READY)  ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

audit:  ## look for known faults in the pinned packages, where PyPI's advisories can be reached
	@$(PYTHON) tools/audit.py $(AUDIT)

verify: $(READY)  ## renew the truth bench's committed results, plot and page (5 minutes)
	$(BIN)/fewstep verify -o build/verify
	cp build/verify/verify.json benchmarks/results/
	cp build/verify/verify.png docs/images/
	$(BIN)/python tools/figures.py

screenshots: $(READY)  ## draw the documentation's pictures of the page, of the students in runs/quickstart
	FEWSTEP_SCREENSHOTS=docs/images FEWSTEP_STUDENTS=$(or $(STUDENTS),runs/quickstart) \
		$(PYTEST) -n 0 -m slow tests/ui/test_browser.py -k "figures or training or phone"

format: $(READY)  ## put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)  ## build the documentation into site/, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

constraints:  ## write constraints/current.txt anew (TORCH=2.13.0 chooses another torch)
	$(or $(PYTHON),python3) tools/constraints.py $(TORCH)

clean:  ## remove what was built, but no runs
	rm -rf $(VENV) $(FLOOR) $(MIDDLE) $(AUDIT) site build .pytest_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints/current.txt tools/install.py fewstep/__init__.py
	@$(if $(PYTHON),,$(error fewstep needs Python 3.11 or newer and found none; install it, \
		or say where it is: make PYTHON=/path/to/python3.12))
	@$(PYTHON) tools/install.py $(VENV)
	@touch $@
