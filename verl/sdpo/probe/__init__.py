"""Measure how good a teacher the model is: `python -m verl.sdpo.probe`."""
