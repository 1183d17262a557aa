"""Streams: series → causal protocol → models trained the same way → scores → tables and pictures."""
