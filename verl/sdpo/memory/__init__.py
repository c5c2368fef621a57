"""Estimates of memory and disk from sizes that are known before a training starts. Imports no verl."""
