"""On the path of a local stack's processes, for Python's own `sitecustomize` alone."""
