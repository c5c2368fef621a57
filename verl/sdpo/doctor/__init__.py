"""Can this machine train? `python -m verl.sdpo.doctor`, see `__main__`."""
