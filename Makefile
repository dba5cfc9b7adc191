# make demo | test | check | bench | images | clean        every target sets up what it needs, in a virtual environment of its own
PYTHON ?= python3
VENV ?= .venv
ENGINE ?= local
BASE_IMAGE ?= python:3.11-slim-bookworm
TORCH_SPEC ?= torch==2.13.0
BUILD_FLAGS ?=
PYTEST_FLAGS ?=

IN_VENV := $(VENV)/bin/python
PIP := $(IN_VENV) -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-core check bench images wheel clean
.SUFFIXES:

demo: $(VENV)/.demo $(if $(filter-out local,$(ENGINE)),images)    ## train, mine and infer with the demo detector
	$(IN_VENV) det-demo-tmi/demo.py --engine $(ENGINE)

test: $(VENV)/.dev $(VENV)/.demo $(if $(filter-out local,$(ENGINE)),images)    ## all tests; with ENGINE=docker the container tests
	$(IN_VENV) -m pytest -m "$(if $(filter-out local,$(ENGINE)),docker,not docker)" $(PYTEST_FLAGS)

test-core: $(VENV)/.dev    ## the tests that need no torch, for other versions of Python
	$(IN_VENV) -m pytest -m "not docker" --ignore tests/demo --ignore tests/test_packaging.py $(PYTEST_FLAGS)

check: $(VENV)/.dev $(VENV)/.demo    ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

bench: $(VENV)/.demo    ## what claims of speed rest on
	for program in benchmarks/*.py; do echo "== $$program"; $(IN_VENV) "$$program" || exit 1; done

images:    ## the base layer and the demo image
	$(ENGINE_PROGRAM) build $(BUILD_FLAGS) $(MIRRORS) --build-arg BASE_IMAGE=$(BASE_IMAGE) -t ymir-exc .
	$(ENGINE_PROGRAM) build $(BUILD_FLAGS) --build-arg TORCH_SPEC=$(TORCH_SPEC) -t ymir-exc-det-demo det-demo-tmi

MIRRORS = $(if $(PIP_INDEX_URL),--build-arg PIP_INDEX_URL=$(PIP_INDEX_URL)) $(if $(APT_MIRROR),--build-arg APT_MIRROR=$(APT_MIRROR))
ENGINE_PROGRAM = $(if $(filter-out local,$(ENGINE)),$(ENGINE),docker)

wheel: $(VENV)/.dev    ## dist/: a wheel and a source archive
	$(IN_VENV) -m build --outdir dist .

clean:
	rm -rf demo-run build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml
	$(PIP) --editable '.[host]'
	touch $@

# torch is installed by its own name first, so that the one chosen here satisfies the extra.
$(VENV)/.demo: $(VENV)/.core
	$(PIP) $(TORCH_SPEC)
	$(PIP) --editable '.[demo,host]'
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) --editable '.[dev,host]'
	touch $@
