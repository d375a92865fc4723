# `make demo` and `make test` set everything up in .venv by themselves. TORCH_INDEX=https://download.pytorch.org/whl/cpu
# makes them take PyTorch's CPU build, so that a machine without a GPU does not fetch CUDA. A build whose hash is not in
# requirements/torch.txt needs a file with its hash, and with what it needs, as TORCH_LOCK.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := configs/recipes/demo.yaml
WITHOUT_LLAMA := tests/unit tests/ui $(wildcard tests/line/test_train_*.py)
WITH_LLAMA := $(filter-out $(WITHOUT_LLAMA),$(wildcard tests/line/test_*.py))
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Threads that wait leave their core to what runs beside them.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: live demo test test-all check lint types quick bench format setup lock llama images clean

# llama.cpp is compiled beside the stages that need none of it; what the compiler says is shown if it fails.
demo: setup
	@nice $(MAKE) --no-print-directory llama > $(VENV)/llama.log 2>&1 & llama=$$!; \
	$(BIN)/tuneline train $(DEMO) || { kill $$llama; exit 1; }; \
	wait $$llama || { tail -n 50 $(VENV)/llama.log; exit 1; }
	$(BIN)/tuneline demo

# Two candidates before a running gateway, and what becomes of them; trains three tiny models on first use.
live: setup llama
	$(BIN)/python benchmarks/live.py

# llama.cpp is compiled beside the tests that need none of it, then the rehearsal of Modal, which mostly waits, runs beside
# the rest; what the compiler says is shown if it fails, what the rehearsal says after the tests beside it.
test: setup
	@rm -f $(VENV)/llama.exit; \
	{ nice $(MAKE) --no-print-directory llama > $(VENV)/llama.log 2>&1; echo $$? > $(VENV)/llama.exit; \
	  grep -qx 0 $(VENV)/llama.exit && $(BIN)/python -m pytest -m "not slow" tests/rehearsal > $(VENV)/rehearsal.log 2>&1; \
	} & rehearsal=$$!; \
	$(BIN)/python -m pytest -m "not slow" $(WITHOUT_LLAMA); without=$$?; \
	until [ -s $(VENV)/llama.exit ] || ! kill -0 $$rehearsal; do sleep 1; done; \
	grep -qx 0 $(VENV)/llama.exit || { tail -n 50 $(VENV)/llama.log; exit 1; }; \
	$(BIN)/python -m pytest -m "not slow" $(WITH_LLAMA); with=$$?; \
	wait $$rehearsal; rehearsal=$$?; cat $(VENV)/rehearsal.log; exit $$((without | with | rehearsal))

# The second line: tests that need vLLM or the extras, in environments of their own (docs/vllm.md).
test-all: setup llama
	$(BIN)/python -m pytest -rs; tests=$$?; \
	$(BIN)/python -m tests.environments && exit $$tests

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

# Every file is checked by its hash. Versions and hashes: `make lock`.
$(VENV)/.ready: requirements.lock pyproject.toml $(wildcard requirements/*.txt)
	$(PYTHON) -m tuneline.core.package_locks $(VENV) requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Versions stay unless an input changed; UPGRADE="--upgrade-package peft" or UPGRADE=--upgrade takes newer ones.
lock: setup
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: --upgrade --target .cache/uv -r requirements/uv.txt
	UV=.cache/uv/bin/uv $(BIN)/python requirements/compile.py $(UPGRADE)

llama: setup
	$(BIN)/python -P -m tuneline.engines.llama_cpp.build

# As root, with mmdebstrap; what this machine cannot reach is replaced and named (docs/images.md).
IMAGES ?= gateway page cpu train.on_cpu convert train serve evaluate compress
images: setup
	for image in $(IMAGES); do $(BIN)/tuneline rehearse --build $$image || exit 1; done

clean:
	rm -rf .runs .models .live .mypy_cache .ruff_cache .pytest_cache
