"""Estimates of memory and disk, from sizes known before a training starts. Imports no verl."""
