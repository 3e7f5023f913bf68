# `make` lists the targets. Everything is installed into $(VENV), nothing outside the project but the caches of pip
# and of the base model (~/.cache/rlhf-pipelines).

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
PIP_FLAGS ?=
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt $(PIP_FLAGS)
RUNS ?= runs
RUN_FLAGS ?=
SEEDS ?= 0 1 2
# One more than there are cores: some tests wait for something.
WORKERS = $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))
# A processor without AVX512, as torch and oneDNN see it, and the tests that depend on it.
AVX2 = ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
NUMERICS = tests/unit/ops tests/unit/generation/test_rollout.py tests/unit/training
BUILD_DOCS = NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

.DEFAULT_GOAL := help
.PHONY: help tune test check test-vllm docs images test-images compile benchmark constraints clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

tune: $(VENV)/.train  ## Tune the sample model with the sample preferences (it says how long it will take)
	@$(VENV)/bin/rlhf run --sample --pipeline-root $(RUNS) $(RUN_FLAGS)

test: $(VENV)/.dev  ## Run every test that can run on this machine
	$(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist worksteal
	$(VENV)/bin/python -m pytest -q -n auto --dist loadfile --durations 15 -m "slow and not docker and not gpu and not vllm"
	$(AVX2) $(VENV)/bin/python -m pytest -q -n auto --dist worksteal $(NUMERICS)

check: $(VENV)/.dev  ## Lint, check formatting, types and imports, hold the compiled pipelines current, build the documents
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy && $(VENV)/bin/lint-imports --no-cache --no-logo
	$(VENV)/bin/python -m pytest -q tests/pipelines/test_compile.py
	$(BUILD_DOCS)

docs: $(VENV)/.docs  ## Build the documents into site/
	$(BUILD_DOCS)

test-vllm: $(VENV)/.dev  ## Run the tests with a real vLLM for the CPU, kept in ~/.cache/rlhf-pipelines (3.5 GB)
	.ci/vllm $(VENV)/bin/python

images:  ## Build the container images; CPU=1 for machines without a GPU
	containers/build.sh

test-images: $(VENV)/.dev  ## Run the tests of the images, which a Docker engine here must have
	$(VENV)/bin/python -m pytest -q -m docker

compile: $(VENV)/.dev  ## Compile the pipelines into pipelines/compiled, the components into components/compiled
	$(VENV)/bin/rlhf compile --output-dir pipelines/compiled --components-dir components/compiled

benchmark: $(VENV)/.train  ## Does tuning work? The sample job for three seeds (20 to 40 minutes on 2 cores)
	$(VENV)/bin/python benchmarks/sample_seeds.py --seeds $(SEEDS)

constraints:  ## Resolve the newest versions that pyproject.toml allows into constraints.txt
	$(PYTHON) -m venv .constraints && .constraints/bin/pip install --quiet $(PIP_FLAGS) '.[train,vertex,dev,docs]'
	.constraints/bin/pip list --format freeze | sed -E 's/\+[a-z0-9.]+$$//' | grep -vE '^(pip|setuptools|rlhf-pipelines)==' > .constraints/new
	head -n 1 constraints.txt | cat - .constraints/new > .constraints/all && mv .constraints/all constraints.txt
	rm -rf .constraints

clean:  ## Remove the virtual environment
	rm -rf $(VENV)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one with make PYTHON=..."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one with make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)

# One environment for all: `test` adds the development tools to what `tune` installs.
$(VENV)/.train: $(VENV)/bin/python pyproject.toml constraints.txt hatch_build.py src/rlhf_tuning/data/read_rows.c
	@echo "Installing torch, transformers, trl and kfp into $(VENV) (minutes; about 2 GB, more with a CUDA build of torch)"
	@$(PIP) --editable '.[train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	@$(PIP) --editable '.[train,vertex,dev,docs]'
	@touch $@

$(VENV)/.docs: $(VENV)/bin/python pyproject.toml constraints.txt
	@$(PIP) --editable '.[docs]'
	@touch $@
