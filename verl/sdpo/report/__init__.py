"""`python -m verl.sdpo.report`: see `__main__`."""
