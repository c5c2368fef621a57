"""SDPO (Self-Distilled Policy Optimization, arXiv 2601.20802) as a plugin of stock verl."""

import os

SUPPORTED_VERL = "0.9.1"


def on_cpu() -> bool:
    """Return whether the user chose the platform without an accelerator, as verl asks for it."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"
