"""What all tests share: a compiler that is in a hurry."""

import os

# Compiling is nine tenths of these tests' time, and takes a fifth of it this way. XLA_FLAGS= in the environment tests
# what the compiler makes of the package otherwise.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)
