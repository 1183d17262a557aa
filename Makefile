# A fresh machine needs Python >= 3.11 with venv, and make; everything else is installed into .venv.
PYTHON ?= python3
PY := .venv/bin/python
# LAPACK on more threads than free cores stalls small decompositions by orders of magnitude.
export OPENBLAS_NUM_THREADS := 1

RUNS := rotated-digits permuted-digits permuted-mnist long rotated-mnist noise rank truncation shifts networks \
  structures jena jena-ablation streams

.PHONY: $(RUNS) test check benchmark clean

$(RUNS): .venv/installed
	$(PY) -m experiments $@

test: .venv/installed check
	$(PY) -m pytest -q -n auto

check: .venv/installed
	.venv/bin/ruff format --check --quiet .
	.venv/bin/ruff check --quiet .
	.venv/bin/pyright --pythonpath $(PY)

benchmark: .venv/installed
	$(PY) -m benchmarks.truncation

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf .venv
