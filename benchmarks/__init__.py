"""The kernels against the machine's limit and against peers: ratios measured side by side in one run."""
