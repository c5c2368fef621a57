"""`python -m verl.sdpo.report`: see verl/sdpo/insight/."""
