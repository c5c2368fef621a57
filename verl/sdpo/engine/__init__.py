"""The accelerator worker: verl's FSDP engine with the self-teacher."""
