"""The engine of all experiments: options, search, cache, results, report, pictures."""
