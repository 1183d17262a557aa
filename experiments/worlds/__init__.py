"""Worlds of tokens whose belief is exact, methods that learn them, and how near they come."""
