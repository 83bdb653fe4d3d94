# `make run` and `make test` need nothing but Python >= 3.11, make and a package registry.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=

.PHONY: help run test test-all lint bench gpu-check docs docs-serve lock pin-images setup clean
help:
	@echo "make run       set up, then run PSP on the bundled digits (ARGS='--seed 1 …' adds options)"
	@echo "make test      set up, then lint and run the tests"
	@echo "make test-all  also the tests marked slow or browser"
	@echo "make lint      ruff, mypy (strict), and whether the settings tables in docs/ are up to date"
	@echo "make bench     the benchmarks (ratios within one run)"
	@echo "make gpu-check  what a GPU here changes: numbers, speed, memory (6 minutes; writes gpu-check.md)"
	@echo "make docs      the documentation as a site, with the API reference, in build/docs (docs-serve: at 127.0.0.1:8000)"
	@echo "make lock      the hashes of what the images install (docker/requirements.txt), after constraints.txt has changed"
	@echo "make pin-images  the digests of the images that ours build on (needs docker and its registry)"
	@echo "make clean     remove the virtual environment and build files"

run: $(VENV)/.ready-run
	$(BIN)/python -m psp_ray.main $(ARGS)

# Two at a time; what is in one file runs in one process, since it shares fixtures. A process that dies ends the tests
# with its name: pytest-xdist 3.8 waits forever for the files of the dead one when it starts another in its place.
SIDE_BY_SIDE = -n auto --maxprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test: lint
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-all: lint
	$(BIN)/python -m pytest -m "slow or browser or not slow" $(ARGS)

lint: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m psp_ray.cli.docs_tables --check docs/method.md

bench: $(VENV)/.ready-test
	for name in text_step softdtw sampler_memory ray_overhead protocols own_data small_commands; do $(BIN)/python -m benchmarks.$$name || exit 1; done

gpu-check: $(VENV)/.ready-test
	$(BIN)/python -m pytest -m gpu tests/test_gpu.py
	$(BIN)/python -m benchmarks.gpu_check $(ARGS)

# Material tells of its successor on every build; a warning of its own is no warning about these pages.
docs: $(VENV)/.ready-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -f .ci/mkdocs.yml

docs-serve: docs
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/docs 8000

lock: $(VENV)/.ready-run
	$(BIN)/python docker/lock.py

pin-images:
	$(PYTHON) docker/pin.py

setup: $(VENV)/.ready-test

$(VENV)/.ready-run: pyproject.toml constraints.txt
	@echo "Setting up in $(VENV), the first time only: about 6 GB of packages, most of it torch. It takes some minutes."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "psp-ray needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python .ci/install.py -c constraints.txt -e .
	@echo "Looking whether all of it can be imported …"
	@$(BIN)/python -c 'import psp_ray, ray, torch, open_clip'
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready-run
	@$(BIN)/python .ci/install.py -c constraints.txt -e ".[test]"
	@$(BIN)/python -c 'import pytest, hypothesis, tslearn'
	@touch $@

$(VENV)/.ready-docs: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
