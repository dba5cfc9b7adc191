# make demo | test | check | bench | images | docs | clean        every target sets up what it needs, in a virtual environment of its own
PYTHON ?= python3
VENV ?= .venv
ENGINE ?= local
BASE_IMAGE ?= python:3.11-slim-bookworm
TORCH_SPEC ?= torch==2.13.0
BUILD_FLAGS ?=
EXTRAS ?= dev,host
COVERAGE ?=
CONSTRAINTS ?=
PYTEST_FLAGS ?=

IN_VENV := $(VENV)/bin/python
PIP := $(IN_VENV) -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-core check bench images docs wheel clean
.SUFFIXES:

demo: $(VENV)/.demo $(if $(filter-out local,$(ENGINE)),images)    ## train, mine and infer with the demo detector
	$(IN_VENV) det-demo-tmi/demo.py --engine $(ENGINE)

test: $(VENV)/.dev $(VENV)/.demo $(if $(filter-out local,$(ENGINE)),images)    ## all tests; with ENGINE=docker the container tests
	$(if $(COVERAGE),$(IN_VENV) -m coverage erase)
	$(IN_VENV) -m $(if $(COVERAGE),coverage run --parallel-mode -m )pytest -m "$(if $(filter-out local,$(ENGINE)),docker,not docker)" $(PYTEST_FLAGS)
	$(if $(COVERAGE),$(REPORT_COVERAGE))

# How much of what runs in an image the tests reach: `make test COVERAGE=1`. A process that a test kills leaves half a file behind.
define REPORT_COVERAGE
$(IN_VENV) -m coverage combine --quiet
	rm -f .coverage.*
	$(IN_VENV) -m coverage report --skip-covered
	$(IN_VENV) -m coverage json -q -o - | $(IN_VENV) -c "$$BRANCHES"
endef

# Of coverage's own percentages none is of branches alone.
define BRANCHES
import json, sys
totals = json.load(sys.stdin)["totals"]
share = totals["covered_branches"] / totals["num_branches"]
print(f"{share:.1%} of the branches of the core modules are reached; 95 % must be")
sys.exit(share < 0.95)
endef
export BRANCHES

# With EXTRAS=test nothing but the package and what its tests themselves need is installed.
test-core: $(VENV)/.test    ## the tests that need no torch, for other versions of Python and of what the package needs
	$(IN_VENV) -m pytest -m "not docker" --ignore tests/demo --ignore tests/integrations --ignore tests/test_packaging.py $(PYTEST_FLAGS)

check: $(VENV)/.dev $(VENV)/.demo    ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

bench: $(VENV)/.demo    ## what claims of speed rest on, written into benchmarks/RESULTS.md
	for program in benchmarks/*.py; do echo "== $$program"; $(IN_VENV) "$$program" --markdown || exit 1; done

images:    ## the base layer and the demo image
	$(ENGINE_PROGRAM) build $(BUILD_FLAGS) $(MIRRORS) --build-arg BASE_IMAGE=$(BASE_IMAGE) -t ymir-exc .
	$(ENGINE_PROGRAM) build $(BUILD_FLAGS) --build-arg TORCH_SPEC='$(TORCH_SPEC)' -t ymir-exc-det-demo det-demo-tmi

MIRRORS = $(if $(PIP_INDEX_URL),--build-arg PIP_INDEX_URL=$(PIP_INDEX_URL)) $(if $(APT_MIRROR),--build-arg APT_MIRROR=$(APT_MIRROR))
ENGINE_PROGRAM = $(if $(filter-out local,$(ENGINE)),$(ENGINE),docker)

docs: $(VENV)/.docs    ## build/site/: the pages of docs/ as a web site that can be read from disk
	$(VENV)/bin/mkdocs build --strict --quiet

wheel: $(VENV)/.dev    ## dist/: a wheel and a source archive
	$(IN_VENV) -m build --outdir dist .

clean:
	rm -rf demo-run build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.*

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml
	$(PIP) --editable '.[host]'
	touch $@

# torch is installed by its own name first, so that the one chosen here satisfies the extra.
$(VENV)/.demo: $(VENV)/.core
	$(PIP) '$(TORCH_SPEC)'
	$(PIP) --editable '.[demo,host]'
	touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	$(PIP) $(CONSTRAINTS:%=--constraint %) --editable '.[$(EXTRAS)]'
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) --editable '.[dev,host]'
	touch $@

$(VENV)/.docs: $(VENV)/.core
	$(PIP) --editable '.[docs,host]'
	touch $@
