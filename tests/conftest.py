"""What all tests share: simulated devices, the compilation cache, and a tiny random CLIP."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
