"""The end of a retraining: gate, register, move the alias, try the service over HTTP, report (§8)."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from mmface import registry, tracking
from mmface.config import Recipe
from mmface.dataset import Dataset, open_dataset
from mmface.evaluate.gate import Decision, decide
from mmface.storage import Store

log = logging.getLogger(__name__)
CHAMPION = registry.CHAMPION


@dataclass(frozen=True)
class Release:
    """How a retraining ended and where to look."""

    version: str
    champion: bool
    reason: str
    metrics: dict[str, float]
    report: str
    curl: str

    def summary(self) -> str:
        """What the terminal shows last."""
        title = f"version {self.version} is {'the champion' if self.champion else 'not the champion'}: {self.reason}"
        figures = [f"  {name:42}{value:10.4f}" for name, value in sorted(self.metrics.items())]
        return "\n".join([title, *figures, f"report: {self.report}", "serve:  mmface serve", f"call:   {self.curl}"])
