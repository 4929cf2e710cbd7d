# Two commands matter: `make demo` and `make test`. Nothing is written outside this folder.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: demo test test-slow lint clean test-slurm image test-image test-apptainer

# The environment is made anew whenever the project's own files change.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	rm -rf $(DEMO)
	$(BIN)/msapp-phantom $(DEMO)/bids
	$(BIN)/msapp $(DEMO)/bids $(DEMO)/out participant group
	@echo "Open $(CURDIR)/$(DEMO)/out/sub-01.html and $(CURDIR)/$(DEMO)/out/group.html"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes, whatever the machine: many tests use all CPUs themselves. One thread in each: threads
# of two processes that wait for one another on two CPUs take forty times as long.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' --numprocesses 2 --dist loadfile --durations 25

# Everything, real patients too: MSAPP_TEST_DATA names the folder of the data.
test-slow: lint
	$(BIN)/python -m pytest

# Starts a SLURM of its own on this host; needs the packages slurm-wlm and munge. With SIF=FILE,
# msapp is run by Apptainer in its jobs.
test-slurm: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/hpc/run.sh

# BASE_IMAGE, TORCH_INDEX, TORCH_SPEC, IMAGE and ENGINE are read from the environment.
image:
	scripts/container/build.sh

test-image: $(VENV)/.installed
	scripts/container/test_image.sh

test-apptainer: $(VENV)/.installed
	scripts/container/test_apptainer.sh

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
