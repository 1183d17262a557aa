# A fresh machine needs Python >= 3.11 with venv, and make; everything else is installed into .venv.
PYTHON ?= python3
PY := .venv/bin/python
# LAPACK on more threads than free cores stalls small decompositions by orders of magnitude.
export OPENBLAS_NUM_THREADS := 1

# jaxlib 0.10's CPU runtime can wait for ever where it runs several batched products at once (blocks per unit).
SERIAL := --xla_cpu_enable_concurrency_optimized_scheduler=false

RUNS := rotated-digits permuted-digits permuted-mnist long rotated-mnist noise rank truncation shifts networks \
  structures jena jena-ablation streams

.PHONY: $(RUNS) test test-slow check benchmark clean

$(RUNS) benchmark: export XLA_FLAGS := $(SERIAL)

$(RUNS): .venv/installed
	$(PY) -m experiments $@

test: .venv/installed check
	$(PY) -m pytest -q -n auto -m "not slow"

test-slow: .venv/installed
	$(PY) -m pytest -q -n auto -m slow

check: .venv/installed
	.venv/bin/ruff format --check --quiet .
	.venv/bin/ruff check --quiet .
	.venv/bin/pyright --pythonpath $(PY)

benchmark: .venv/installed
	for name in cost truncation streaming laplace large seeds growth latenttrack; do $(PY) -m benchmarks $$name || exit 1; done

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf .venv
