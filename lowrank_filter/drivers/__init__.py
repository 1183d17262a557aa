"""Loops over kernels: training, streams, and filters that are built once and used many times."""
