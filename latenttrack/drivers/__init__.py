"""Loops over kernels: training, forecasting, checkpoints."""
