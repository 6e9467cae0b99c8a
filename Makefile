# Each from a bare checkout: `make quickstart` runs the main job, `make test` the linters, the type checker and the tests,
# `make test-slow` the tests that it leaves out, `make test-optimized` its tests with programs compiled as users run them,
# and `make mutants` mutation testing.

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/quickstart
WORKERS ?= 2
PYTEST = $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test test-slow test-optimized mutants clean

quickstart: $(VENV)/installed
	$(VENV)/bin/selfadapt train --config=quickstart --workdir=$(WORKDIR)

test: $(VENV)/installed-test
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(PYTEST) -m 'not slow'

test-slow: $(VENV)/installed-test
	$(PYTEST) -m slow

test-optimized: $(VENV)/installed-test
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(PYTEST) -m 'not slow'

mutants: $(VENV)/installed-test
	$(VENV)/bin/python -m tests.mutants -j $(WORKERS)

$(VENV)/installed: setup.py constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/installed-test: setup.py constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -c constraints.txt -e '.[test]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
