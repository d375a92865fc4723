# `make demo` and `make test` set everything up in .venv by themselves. TORCH_INDEX=https://download.pytorch.org/whl/cpu
# makes them take PyTorch's CPU build, so that a machine without a GPU does not fetch CUDA.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WITHOUT_LLAMA := tests/unit $(wildcard tests/line/test_train_*.py)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test test-all check lint types quick bench format setup llama clean

demo: setup llama
	$(BIN)/tuneline demo

# llama.cpp is compiled beside the tests that need none of it; what the compiler says is shown if it fails.
test: setup
	@nice $(MAKE) --no-print-directory llama > $(VENV)/llama.log 2>&1 & llama=$$!; \
	$(BIN)/python -m pytest -m "not slow" $(WITHOUT_LLAMA) || { kill $$llama; exit 1; }; \
	wait $$llama || { tail -n 50 $(VENV)/llama.log; exit 1; }
	$(BIN)/python -m pytest -m "not slow" $(addprefix --ignore=,$(WITHOUT_LLAMA))

test-all: setup llama
	$(BIN)/python -m pytest

# Side by side: types and tests each keep one core busy.
check: setup
	$(MAKE) --no-print-directory -j --output-sync=target lint types quick

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

quick:
	$(BIN)/python -m pytest tests/unit

bench: setup llama
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(VENV)/.ready

# PyTorch first and alone: whatever needs it later finds the chosen build and keeps it.
$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),) $$(grep '^torch==' requirements.lock)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

llama: setup
	$(BIN)/python -P -m tuneline.engines.llama_cpp.build

clean:
	rm -rf .runs .models .mypy_cache .ruff_cache .pytest_cache
