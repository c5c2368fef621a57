"""A run on disk: checkpoints, identity, dump, guard's rules, and the reader of a run's folder. Imports no verl."""
