"""What Prometheus is told: how many, how long, how full."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]


class Metrics:
    """The numbers of one service; each application has its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter("undertone_requests", "Requests answered", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "undertone_request_seconds", "Time to answer", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.refused = Counter(
            "undertone_refused", "Requests that met a limit, or none", ["limit"], registry=self.registry
        )
        self.sound = Counter("undertone_sound_seconds", "Seconds of sound heard", ["route"], registry=self.registry)
        self.lost_decoders = Counter(
            "undertone_decoders_lost", "Decoding processes that had to be replaced", registry=self.registry
        )

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a number that is asked for when it is wanted."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def page(self) -> bytes:
        """Return all numbers in Prometheus' text format."""
        return generate_latest(self.registry)
