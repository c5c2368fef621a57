"""Can this model teach itself on this data? `python -m verl.sdpo.probe`, see `__main__`."""
