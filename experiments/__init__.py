"""Continual-learning experiments: data → tasks → methods → results → tables and pictures.

Run one with ``python -m experiments NAME``.
"""
