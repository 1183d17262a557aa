# A fresh machine needs Python >= 3.11 with venv, and make; everything else is installed into .venv.
PYTHON ?= python3
PY := .venv/bin/python
# LAPACK on more threads than free cores stalls small decompositions by orders of magnitude.
export OPENBLAS_NUM_THREADS := 1

# The tests of a file stay together: they share compiled programs.
PYTEST := -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

RUNS := $(subst _,-,$(filter-out __init__,$(basename $(notdir $(wildcard experiments/catalogue/*.py))))) all

.PHONY: $(RUNS) test test-slow test-oldest test-newest test-alone test-wheel check docs mutations benchmark clean

$(RUNS): .venv/installed
	$(PY) -m experiments $@

test: .venv/installed check
	$(PY) $(PYTEST) -m "not slow"

test-slow: .venv/installed
	$(PY) $(PYTEST) -m slow

# Both ends of what pyproject.toml admits, each in an environment of its own; uv can take the lowest versions.
# TESTS narrows what is run there.
TESTS ?= tests
test-oldest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest

test-oldest test-newest: VENV = .venv-$(@:test-%=%)
test-oldest test-newest:
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet uv
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --resolution $(RESOLUTION) --editable '.[test]'
	$(VENV)/bin/python $(PYTEST) -m "not slow" $(TESTS)

# lowrank_filter as it is for those who have neither.
test-alone: .venv/installed
	$(PY) -c "import sys; sys.modules.update(flax=None, dynamax=None); import pytest; \
	  sys.exit(pytest.main(['-q', '-m', 'not slow', 'tests/lowrank_filter']))"

# What the README shows, from the wheel alone, away from the tree.
test-wheel:
	rm -rf .venv-wheel dist
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	.venv-wheel/bin/python -m pip install --quiet dist/*.whl
	cd dist && ../.venv-wheel/bin/python ../tests/readme.py ../README.md \
	  "Ten lines: weights" "Ten lines: streams"

check: .venv/installed
	.venv/bin/ruff format --check --quiet .
	.venv/bin/ruff check --quiet .
	.venv/bin/pyright --pythonpath $(PY)

docs: .venv/installed
	.venv/bin/mkdocs build --strict --quiet

mutations: .venv/installed
	$(PY) tests/mutations/run.py

benchmark: .venv/installed
	for name in cost truncation streaming laplace large seeds growth latenttrack accelerator; do $(PY) -m benchmarks $$name || exit 1; done

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-newest .venv-wheel dist
