"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

import prometheus_client as prometheus

from pini_jax.use.classifier import BATCH_SIZES


class Measures:
    """Of one server."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = prometheus.Counter("pini_requests", "Requests of /predict.", ["status"], **own)
        self.images = prometheus.Counter("pini_images", "Images with an answer.", **own)
        self.seconds = prometheus.Histogram("pini_request_seconds", "Seconds of a request.", **own)
        self.batches = prometheus.Histogram("pini_batch_images", "Images of a batch.", buckets=BATCH_SIZES, **own)
        self.inside = prometheus.Gauge("pini_images_inside", "Images without an answer yet.", **own)

    def text(self) -> bytes:
        """All of them."""
        return prometheus.generate_latest(self.registry)
