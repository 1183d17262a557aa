"""``python -m experiments NAME [options]``."""

import os

# LAPACK on more threads than free cores stalls small decompositions by orders of magnitude; read when JAX is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# On a CPU, jaxlib's decomposition of a batch waits in one of XLA's threads for others of them. Blocks per unit have one
# for each layer: when every thread is in one, all wait for ever. Read when JAX first computes, which imports may do.
os.environ.setdefault("NPROC", str(max(16, os.cpu_count() or 1)))

from experiments.cli import main

if __name__ == "__main__":
    main()
