"""Arrays and pytrees in, arrays and pytrees out: products, solves, truncation.

Nothing here knows of a model, a likelihood or a belief.
"""
