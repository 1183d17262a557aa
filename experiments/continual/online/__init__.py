"""Streams of single examples: each is predicted, then learned from, and not seen again."""
