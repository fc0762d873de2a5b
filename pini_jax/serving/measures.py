"""A server's counters, in the format of Prometheus."""

from __future__ import annotations

import prometheus_client as prometheus

from pini_jax.use.classifier import BATCH_SIZES


class Measures:
    """The counters of one server."""

    def __init__(self) -> None:
        own = self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter("pini_requests", "Requests of /predict.", ["status"], registry=own)
        self.images = prometheus.Counter("pini_images", "Images with an answer.", registry=own)
        self.seconds = prometheus.Histogram("pini_request_seconds", "Seconds of a request.", registry=own)
        self.batches = prometheus.Histogram(
            "pini_batch_images", "Images of a batch.", registry=own, buckets=BATCH_SIZES
        )
        self.inside = prometheus.Gauge("pini_images_inside", "Images without an answer yet.", registry=own)

    def text(self) -> bytes:
        """All counters, in Prometheus' format."""
        return prometheus.generate_latest(self.registry)
