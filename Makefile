# Everything sets itself up: a .venv with pinned requirements, then the job.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOGIC := $(VENV)/.logic
EDITABLE := -e . -e plugins/popo -e plugins/grpo -e plugins/ppo
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help setup demo test test-all bench check format clean

help:
	@echo "make demo      set up, then train the embedded default with POPO (about 3 minutes the first time)"
	@echo "make test      set up, then the tests"
	@echo "make test-all  the slow tests too"
	@echo "make bench     the benchmarks of the engine, tables into runs/bench (about 15 minutes)"
	@echo "make check     ruff, mypy, docs"

setup: $(READY)

$(READY): pyproject.toml plugins/popo/pyproject.toml plugins/grpo/pyproject.toml plugins/ppo/pyproject.toml requirements/constraints.txt requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q $(TORCH)
	$(PIP) install -q -c requirements/constraints.txt -r requirements/dev.txt $(EDITABLE)
	touch $(READY)

# Not part of setup: pycosat, which reasoning_gym needs, is compiled on installation. Without a compiler its tests are skipped.
$(LOGIC): $(READY) requirements/logic.txt
	$(PIP) install -q -c requirements/constraints.txt -r requirements/logic.txt || echo "no reasoning_gym: its tests are skipped"
	touch $(LOGIC)

demo: setup
	$(BIN)/rlvr run --objective popo --output runs/demo --overwrite

test: $(LOGIC)
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

test-all: $(LOGIC)
	$(BIN)/python -m pytest -q -n 2

bench: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/all.py --output runs/bench

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_docs.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .pytest_cache
