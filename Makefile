# `make demo` finds and scores a circuit in a real model; `make test` runs the tests.
# Both make .venv when it is missing, and again when pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := runs/demo

# On few cores, OpenMP threads that spin while they wait cost more than they bring; large pages are quicker to take.
export OMP_WAIT_POLICY ?= PASSIVE
export THP_MEM_ALLOC_ENABLE ?= 1

.PHONY: demo test test-all check bench viewer clean

demo: $(READY)
	$(BIN)/subcircuit find node-pruning --model smollm2-135m --task ioi --out $(DEMO) --overwrite
	$(BIN)/subcircuit score $(DEMO) --pairs 32
	$(BIN)/subcircuit show $(DEMO)
	$(BIN)/subcircuit report $(DEMO)

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-all: $(READY)
	$(BIN)/python -m pytest -m "slow or not slow"

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The page of `subcircuit report`, out of its TypeScript. Users need no Node: what is built is part of the package.
viewer: viewer/node_modules
	cd viewer && npm run --silent check && npm run --silent build

viewer/node_modules: viewer/package-lock.json
	cd viewer && npm ci --no-audit --no-fund && touch node_modules

bench: $(READY)
	$(BIN)/python benchmarks/node_pruning.py
	$(BIN)/python benchmarks/baselines.py
	$(BIN)/python benchmarks/edges.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@
