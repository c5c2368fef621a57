"""All that imports verl: engine, worker, trainer, rollout, and the checks of its configuration."""
