# The two set-up commands are `make demo` and `make test`; each makes .venv if it is missing and installs the lock.
# The newest Python of those that the lock is tested for; `make PYTHON=…` takes another.
PYTHON ?= $(firstword $(foreach minor,13 12 11,$(shell python3.$(minor) -c 'print("python3.$(minor)")' 2>/dev/null)))
UV := uv>=0.13.9,<0.14
VENV := .venv
BIN := $(VENV)/bin
ROOMS := effnet datasets orchestration cluster

.PHONY: demo test long unit check format docs lock clean gpu-check gpu-bench

demo: $(VENV)/.installed
	$(BIN)/effnet-cluster submit --variants b0-b1 --activations silu,leaky_relu --workers 2 --epochs 7

test: check unit
	$(BIN)/pytest -m "e2e and not long"

# What `test` has no time for.
long: $(VENV)/.installed-dev
	$(BIN)/pytest -m long

# A file of tests a core, one thread each.
unit: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not e2e and not long" --numprocesses auto --dist loadfile

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=$(VENV)/typing $(BIN)/mypy $(foreach room,$(ROOMS) benchmarks,-p effnet_cluster.$(room))

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# On a machine with CUDA, also without a network: there, the packages of whatever `python3` is. `GPU="--json FILE"` adds
# options, see `python -m effnet_cluster.benchmarks.gpu -h`.
GPU_PYTHON ?= $(if $(wildcard $(VENV)/.installed),$(BIN)/python,python3)
gpu-check gpu-bench:
	mkdir -p build/import
	ln -sfn $(CURDIR) build/import/effnet_cluster
	PYTHONPATH=build/import:$$PYTHONPATH $(GPU_PYTHON) -m effnet_cluster.benchmarks.gpu $(@:gpu-%=%) $(GPU)

# Pages that are written from the code.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m effnet_cluster.cluster.cli.settings_page > docs/settings.md

$(BIN)/python:
	$(if $(PYTHON),,$(error No Python 3.11, 3.12 or 3.13 on the PATH: install one, or say `make PYTHON=/path/to/python`))
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(BIN)/uv: | $(BIN)/python
	@echo 'pip install "$(UV)"'
	@$(BIN)/pip --disable-pip-version-check install --quiet "$(UV)" || \
		{ echo "pip could not install uv (see above). Is there a network, or an index that has it?" >&2; exit 1; }

# The files that the lock names, each checked against its hash. torch's other builds, such as `UV_TORCH_BACKEND=cpu`, have
# hashes and dependencies of their own: for them pyproject.toml is resolved anew, at the lock's versions.
# The folder keeps its build: .installed names it.
ifndef UV_TORCH_BACKEND
UV_TORCH_BACKEND := $(shell cat $(VENV)/.installed 2>/dev/null)
endif
ifeq ($(UV_TORCH_BACKEND),)
install = $(BIN)/python install.py install --require-hashes --requirement $(1)
else
install = $(BIN)/python install.py install --torch-backend $(UV_TORCH_BACKEND) --no-verify-hashes \
	--constraint $(1) --editable ".$(2)"
endif

$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/uv
	$(call install,requirements.lock)
	$(BIN)/python install.py install --quiet --no-deps --editable .
	echo $(UV_TORCH_BACKEND) > $@

# The type checker finds the package by its import name, which is not that of this folder.
$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(call install,requirements-dev.lock,[dev])
	mkdir -p $(VENV)/typing
	ln -sfn $(CURDIR) $(VENV)/typing/effnet_cluster
	touch $@

# Resolves pyproject.toml for every platform and Python from 3.11 on. A pin of today's lock stays while it fits: without
# the two files, everything but constraints.txt moves to its newest release.
compile = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" pyproject.toml
lock: $(BIN)/uv
	$(compile) --constraint constraints.txt --output-file requirements.lock
	$(compile) --constraint requirements.lock --extra dev --output-file requirements-dev.lock

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
