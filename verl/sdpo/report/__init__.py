"""Show what runs did: `python -m verl.sdpo.report`."""
