"""Data pipeline: hub dataset -> unified JSON -> train/test -> verl's parquet (see README.md).

A regular package although it is never installed: `data` is a common name, and a namespace package would lose to any
installed `data` package on the path.
"""
