# Two commands: `make demo` (the main job on real data) and `make test`.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test lint bench slow clean

demo: $(INSTALLED)
	$(BIN)/tsdyn demo

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal $(TESTS)

slow: $(INSTALLED)
	$(BIN)/python -m pytest -q -m slow

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/solver.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/training_step.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/neural_sde.py hopper  # needs TSDYN_DATA

# torch first, at the version of constraints.txt: on a machine without CUDA that is the small CPU build.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[plot,parquet,dev,test]'
	touch $(INSTALLED)

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache
