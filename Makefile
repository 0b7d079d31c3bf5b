# The two set-up commands are `make demo` and `make test`; each makes .venv if it is missing and installs the lock.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
ROOMS := effnet datasets orchestration cluster

.PHONY: demo test long unit check format docs lock clean

demo: $(VENV)/.installed
	$(BIN)/effnet-cluster submit --variants b0-b1 --activations silu,leaky_relu --workers 2 --epochs 7

test: check unit
	$(BIN)/pytest -m "e2e and not long"

# What `test` has no time for.
long: $(VENV)/.installed-dev
	$(BIN)/pytest -m long

# A file of tests a core, one thread each.
unit: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not e2e" --numprocesses auto --dist loadfile

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=$(VENV)/typing $(BIN)/mypy $(foreach room,$(ROOMS) benchmarks,-p effnet_cluster.$(room))

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pages that are written from the code.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m effnet_cluster.cluster.cli.settings_page > docs/settings.md

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --requirement requirements.lock
	$(PIP) install --quiet --no-deps --editable .
	touch $@

# The type checker finds the package by its import name, which is not that of this folder.
$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(PIP) install --quiet --requirement requirements-dev.lock
	mkdir -p $(VENV)/typing
	ln -sfn $(CURDIR) $(VENV)/typing/effnet_cluster
	touch $@

# Resolves pyproject.toml anew. Packages that exist for one platform alone get its marker.
LOCK_VENV := $(VENV)-lock
FREEZE := $(LOCK_VENV)/bin/pip freeze --exclude effnet-cluster | \
	sed -E 's/^((nvidia|cuda|triton)[^;]*)$$/\1 ; platform_system == "Linux" and platform_machine == "x86_64"/'
lock:
	$(PYTHON) -m venv --clear $(LOCK_VENV)
	$(LOCK_VENV)/bin/pip install --quiet --constraint constraints.txt .
	$(FREEZE) > requirements.lock
	$(LOCK_VENV)/bin/pip install --quiet --constraint requirements.lock ".[dev]"
	$(FREEZE) > requirements-dev.lock
	rm -rf $(LOCK_VENV)

clean:
	rm -rf $(VENV) $(LOCK_VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
