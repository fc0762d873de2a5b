"""What a run is measured on."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess

import jax

from benchmarks import timing
from benchmarks.accelerator.work import Row

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
DRIVER = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]


def describe() -> Row:
    """Device, versions, and what NVIDIA's driver says of the card."""
    card = subprocess.run(DRIVER, capture_output=True, text=True).stdout.strip() if shutil.which(DRIVER[0]) else ""
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return dict(device=device, card=card, processor=timing.processor(), cores=os.cpu_count(), versions=versions)
