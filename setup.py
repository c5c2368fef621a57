"""Packaging of SDPO as an overlay of stock verl.

Packages are named one by one on purpose: `verl`, `verl.trainer`, `verl.utils` and `verl.utils.reward_score` belong to
stock verl, and naming one of them here (or using `find_packages`) would hide verl in an editable install.
"""

from setuptools import setup

setup(
    packages=[
        "verl.sdpo",
        "verl.sdpo.cpu",
        "verl.sdpo.doctor",
        "verl.sdpo.engine",
        "verl.sdpo.memory",
        "verl.sdpo.preflight",
        "verl.sdpo.probe",
        "verl.sdpo.report",
        "verl.sdpo.runs",
        "verl.sdpo.test_time",
        "verl.sdpo.trainer",
        "verl.utils.reward_score.feedback",
        "verl.utils.reward_score.feedback.sandbox",
        "verl.utils.reward_score.feedback.sandbox.jail",
    ],
    # The yaml files live where verl keeps its own. `verl.trainer.config` is verl's package, so they are declared
    # relative to ours; a wheel then holds them at verl/trainer/config/.
    package_data={
        "verl.sdpo": ["../trainer/config/*.yaml", "../trainer/config/machine/*.yaml"],
        "verl.sdpo.report": ["page.*"],
    },
)
