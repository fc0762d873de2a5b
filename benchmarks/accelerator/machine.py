"""What a run is measured on."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import subprocess

import jax

from benchmarks import timing
from benchmarks.accelerator.work import Row, tower_dtype

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
OTHERS = ("jax-cuda12-plugin", "jax-cuda13-plugin", "orbax-checkpoint", "torch", "transformers")
SECONDS = 20.0  # that NVIDIA's driver may take to answer
CHANNELS = 64  # of a head of CLIP's towers


def describe() -> Row:
    """Device, versions, what NVIDIA's driver says of the card, and whether attention is cuDNN's."""
    from pini_jax.clip import attention  # of packages that may have stand-ins

    versions = {}
    for name in (*PACKAGES, *OTHERS):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return dict(
        device=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        card=nvidia_smi("--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"),
        processor=timing.processor(),
        cores=os.cpu_count(),
        versions=versions,
        flash=attention._has_flash(tower_dtype(), CHANNELS),
    )


def fell_back() -> bool:
    """Whether there is a card, and JAX computes on the CPU though nobody asked for that."""
    return jax.default_backend() == "cpu" and not asked_for_cpu() and bool(nvidia_smi("-L"))


def asked_for_cpu() -> bool:
    """Whether somebody named the device that JAX is to take."""
    return bool(jax.config.jax_platforms)


def nvidia_smi(*arguments: str) -> str:
    """What it says; nothing where there is no card or no answer."""
    try:
        told = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.strip() if told.returncode == 0 else ""
