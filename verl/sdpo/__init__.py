"""SDPO (Self-Distilled Policy Optimization, arXiv 2601.20802) as a plugin of stock verl."""

SUPPORTED_VERL = "0.9.1"
