# `make quickstart` sets up and runs the main job, `make test` sets up and runs the tests; each from a bare checkout.

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/quickstart
WORKERS ?= 2

.PHONY: quickstart test clean

quickstart: $(VENV)/installed
	$(VENV)/bin/selfadapt train --config=quickstart --workdir=$(WORKDIR)

test: $(VENV)/installed-test
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal

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
