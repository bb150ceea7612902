# Every target but gpu makes its own environment in .venv; `make demo` and `make test` are all one
# needs.
PYTHON ?= python3
BIN := .venv/bin
CORPUS ?= pipelines/demo/corpus

# The tests and timings of a GPU fetch nothing: where there is no .venv they take PYTHON as it is.
GPU_PYTHON = $(if $(wildcard .venv/bin/python),.venv/bin/python,$(PYTHON))

MINUTES ?= 30
SEED ?= 0

.PHONY: demo test test-processors lint format docs bench gpu soak dist clean

demo: .venv/.installed
	$(BIN)/python pipelines/demo/run.py

test: .venv/.installed-test
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-processors: .venv/.installed-test
	$(BIN)/python tests/processors.py $(SETTINGS)

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.installed-docs
	$(BIN)/python docs/make_cli.py
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -b html docs site

bench: .venv/.installed-bench
	$(BIN)/python pipelines/benchmark/bench.py --data_dir $(CORPUS) $(BENCH)

gpu:
	PYTHONPATH=".$${PYTHONPATH:+:$$PYTHONPATH}" $(GPU_PYTHON) pipelines/benchmark/gpu.py $(OPTIONS)

soak: .venv/.installed-test
	$(BIN)/python -m pipelines.soak.run --minutes $(MINUTES) --seed $(SEED)

dist: .venv/.installed-release
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf .venv out site dist

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "gmmpipe needs Python 3.11 or later, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)." \
	    "Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' has no venv module. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Making .venv (about 6 GB with torch, some minutes on a slow line) ..."
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[report]'
	@touch $@

.venv/.installed-%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@
