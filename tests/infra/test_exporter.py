"""What Prometheus reads from Ray: the service's metrics, by the very names that the dashboard asks for."""

from __future__ import annotations

import json
import re
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.infra.manifests import INFRA

SAMPLE = re.compile(r'^(ray_mmface_\w+)\{[^}]*(?:version="7"|of="prompts")[^}]*\} (\S+)$', re.MULTILINE)
IMAGES = (1, 3, 8)


@pytest.fixture(scope="module")
def scraped(ray_session: None) -> dict[str, float]:
    """Sample → value, once the exporter has everything."""
    import ray

    class Replica:
        """An actor that measures as a replica does."""

        def measure(self) -> None:
            from mmface.config import Canary
            from serve.canary.trial import Trial
            from serve.deploy.gauges import CanaryGauges, Gauges

            self.canary = CanaryGauges()
            trial = Trial(Canary(alias="challenger", auto=True), "6", "7")
            trial.add("errors", 0.0, canary=True)
            self.canary.progress(trial)
            self.canary.decided("7", "promoted")
            self.canary.skipped("7", "load")
            self.gauges = Gauges()
            room = SimpleNamespace(limit=2.0**30)
            engine = SimpleNamespace(pending=2, waiting=lambda: 1, room=room)
            generator: Any = SimpleNamespace(info=SimpleNamespace(version="7"), engine=engine)
            job: Any = SimpleNamespace(modality="mask")
            with self.gauges.request(job, generator):
                for count in IMAGES:
                    self.gauges.step("7", count, 0.3)
            self.gauges.refused("7", False)
            self.gauges.drift("prompts", 0.25, True)
            self.gauges.swap("7", "serving")

    replica = ray.remote(num_cpus=0)(Replica).remote()
    ray.get(replica.measure.remote())
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    until = time.monotonic() + 60
    samples: dict[str, float] = {}
    while "ray_mmface_versions_total" not in samples:  # it is told last
        assert time.monotonic() < until, "Ray's exporter does not have it"
        time.sleep(0.5)
        samples = {name: float(value) for name, value in SAMPLE.findall(httpx.get(address).text)}
    ray.kill(replica)
    return samples


def test_the_dashboard_asks_by_the_names_that_are_exported(scraped: dict[str, float]) -> None:
    board = json.loads((INFRA / "grafana" / "serving.json").read_text("utf-8"))
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_mmface_\w+", target["expr"])
    }
    assert asked
    assert asked <= set(scraped)


def test_drift_is_exported_as_it_was_measured(scraped: dict[str, float]) -> None:
    assert scraped["ray_mmface_drift_distance"] == 0.25
    assert scraped["ray_mmface_drift_detected"] == 1


def test_the_images_of_a_step_are_counted_exactly(scraped: dict[str, float]) -> None:
    """Ray knows a histogram's sum from the middles of its buckets alone."""
    assert scraped["ray_mmface_step_images_sum"] == sum(IMAGES)
    assert scraped["ray_mmface_step_images_count"] == len(IMAGES)
