"""Exports the latest figures of training to Prometheus through Ray's metrics; MLflow has the whole history."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge

TAGS = ("run", "phase")


class TrainingGauges:
    """Gauges of the latest entry of the history, on rank 0.

    Args:
        run: id of the MLflow run, or the name of the training run if there is none.
        phase: number and resolution of the phase, such as ``1-512``.
    """

    def __init__(self, run: str, phase: str) -> None:
        self.tags = {"run": run, "phase": phase}
        self._gauges = {
            "step": Gauge("mmface_train_step", description="Optimizer steps done.", tag_keys=TAGS),
            "steps": Gauge("mmface_train_steps", description="Optimizer steps of the phase.", tag_keys=TAGS),
            "loss": Gauge("mmface_train_loss", description="Mean loss since the last line.", tag_keys=TAGS),
            "held_out/loss": Gauge(
                "mmface_train_held_out_loss", description="Loss of held-out rows on fixed noise.", tag_keys=TAGS
            ),
            "grad_norm": Gauge("mmface_train_grad_norm", description="Norm of the gradient.", tag_keys=TAGS),
            "lr": Gauge("mmface_train_lr", description="Learning rate.", tag_keys=TAGS),
            "images_per_s": Gauge("mmface_train_images_per_s", description="Samples a second.", tag_keys=TAGS),
            "data_wait": Gauge(
                "mmface_train_data_wait", description="Share of the time spent waiting for data.", tag_keys=TAGS
            ),
            "mfu": Gauge("mmface_train_mfu", description="Share of the GPU's peak, where it is known.", tag_keys=TAGS),
            "memory_gib": Gauge("mmface_train_memory_gib", description="Peak memory of rank 0, GiB.", tag_keys=TAGS),
            "eta_s": Gauge("mmface_train_eta_s", description="Seconds to the end of the phase.", tag_keys=TAGS),
        }

    def show(self, entry: Mapping[str, float], steps: int) -> None:
        """Sets the gauges to one entry of the history; gauges without a value in the entry do not change.

        Args:
            steps: number of steps of the phase.
        """
        for name, value in {**entry, "steps": float(steps)}.items():
            if name in self._gauges:
                self._gauges[name].set(value, tags=self.tags)
