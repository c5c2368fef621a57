"""The driver: what SDPO adds to verl's V1 trainers."""
