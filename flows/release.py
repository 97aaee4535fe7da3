"""The end of a retraining: gate, register, move the alias, try the service over HTTP, report (§8)."""

from __future__ import annotations

import base64
import json
import logging
import math
import shlex
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from mmface import registry, tracking
from mmface.config import Recipe
from mmface.dataset import Dataset, open_dataset, upstream
from mmface.errors import ServiceError
from mmface.evaluate.gate import Decision, decide
from mmface.evaluate.report import Report, grid, render_report
from mmface.storage import Store

log = logging.getLogger(__name__)

BUNDLE = "bundle"
SERVED, MASK, GRID, REPORT = "served.png", "mask.png", "grid.png", "report.html"


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
        title = f"version {self.version} {'is the champion' if self.champion else 'was turned down'}: {self.reason}"
        shown = {name: value for name, value in self.metrics.items() if name.startswith(("mask/", "sketch/edge"))}
        figures = [f"  {name:44}{value:10.4f}" for name, value in sorted(shown.items())]
        return "\n".join([title, *figures, f"report: {self.report}", "serve:  mmface serve", f"call:   {self.curl}"])


def release(recipe: Recipe, home: Store, bundle: str, mlflow_run: str) -> Release:
    """Registers the bundle, lets the gate decide, tries the service and shows what came of it.

    Args:
        bundle: URI of the ``bundle`` dataset.
    """
    made = open_dataset(bundle)
    metrics = read_metrics(made)
    version = register(recipe, made, mlflow_run)
    decision = gate(recipe, metrics, version)
    place = home.child(f"reports/{made.manifest.fingerprint}")
    prompt = prepare_example(made, place)
    if decision.passed and not place.exists(SERVED):
        place.write(SERVED, try_service(recipe, home, prompt, place.read(MASK)))
    page = Report(
        recipe=recipe,
        datasets=upstream(bundle),
        metrics=metrics,
        decision=decision,
        version=version,
        champion=registry.get_alias(recipe.serve.model_name, registry.CHAMPION) == version,
        curl=curl_command(recipe, prompt, f"{place.uri}/{MASK}"),
        links={"MLflow run": mlflow_run},
        served=place.read(SERVED) if place.exists(SERVED) else None,
    )
    write_report(page, place, mlflow_run)
    return Release(version, page.champion, decision.reason, metrics, f"{place.uri}/{REPORT}", page.curl)


def read_metrics(bundle: Dataset) -> dict[str, float]:
    """The bundle's figures; what was not finite is NaN again."""
    figures = json.loads(bundle.read(f"{BUNDLE}/metrics.json"))
    return {name: math.nan if value is None else value for name, value in figures.items()}


def prepare_example(bundle: Dataset, place: Store) -> str:
    """Keeps the first painted mask beside the report, for the curl command; returns its prompt."""
    samples = open_dataset(bundle.manifest.inputs["samples"]).table(["modality", "prompt", "condition"]).to_pylist()
    first = next(row for row in samples if row["modality"] == "mask")
    place.write(MASK, first["condition"])
    return str(first["prompt"])


@task(cache_policy=NO_CACHE)
def register(recipe: Recipe, made: Dataset, mlflow_run: str) -> str:
    """The bundle's version in the registry, as challenger; the same bundle again gives the same version."""
    name = recipe.serve.model_name
    with tempfile.TemporaryDirectory() as folder:
        version = registry.register_bundle(made.download(BUNDLE, Path(folder)), mlflow_run, name)
    registry.set_alias(name, "challenger", version)
    return version


@task(cache_policy=NO_CACHE)
def gate(recipe: Recipe, metrics: dict[str, float], version: str) -> Decision:
    """Asks the recipe's thresholds; who passes becomes champion."""
    name = recipe.serve.model_name
    current = registry.get_alias(name, registry.CHAMPION)
    compared = current not in (None, version) and recipe.gate.max_frechet_ratio_to_champion is not None
    champion = registry.load_bundle(name).metrics if compared else None
    decision = decide(metrics, champion, recipe.gate)
    if registry.was_rolled_back(name, version):
        objection = f"version {version} was rolled back: change the recipe, or give it the alias in MLflow"
        decision = replace(decision, passed=False, objection=objection)
    log.info("gate: version %s %s: %s", version, "passed" if decision.passed else "failed", decision.reason)
    if decision.passed and current != version:
        registry.set_alias(name, registry.CHAMPION, version)
    return decision


@task(cache_policy=NO_CACHE)
def try_service(recipe: Recipe, home: Store, prompt: str, mask: bytes) -> bytes:
    """Serves the champion, asks it for one picture over HTTP, stops the service; returns the picture."""
    from serve.app import run, shutdown

    log.info("serve: loading the champion")
    url = run(recipe, home=home.uri)
    try:
        answer = httpx.post(
            f"{url}/v1/generate/mask",
            json={"prompt": prompt, "seed": 0, "condition": base64.b64encode(mask).decode()},
            headers={"Accept": "image/png"},
            timeout=recipe.serve.timeout_s,
        ).raise_for_status()
    except httpx.HTTPError as error:
        raise ServiceError(f"the served model did not answer: {error}", field="serve") from error
    finally:
        shutdown()
    log.info("serve: %d bytes of PNG over HTTP", len(answer.content))
    return answer.content


@task(cache_policy=NO_CACHE)
def write_report(page: Report, place: Store, mlflow_run: str) -> None:
    """The HTML page and its contact sheet: in the store, in MLflow, and as a Prefect artifact."""
    samples = page.datasets["samples"].table()
    with tempfile.TemporaryDirectory() as scratch:
        for name, data in ((REPORT, render_report(page).encode()), (GRID, grid(samples, page.recipe.evaluate.grid))):
            place.write(name, data)
            (Path(scratch) / name).write_bytes(data)
        tracking.log_artifact(mlflow_run, Path(scratch), "report")
    tracking.log_metrics(mlflow_run, {name: value for name, value in page.metrics.items() if math.isfinite(value)})
    tracking.finish_run(mlflow_run)
    figures = "\n".join(f"| {name} | {value:.4f} |" for name, value in sorted(page.metrics.items()))
    title = f"# Version {page.version}: {page.decision.reason}\n\n[{REPORT}]({place.uri}/{REPORT})"
    create_markdown_artifact(f"{title}\n\n| metric | value |\n| --- | --- |\n{figures}", key="retrain-report")


def curl_command(recipe: Recipe, prompt: str, mask: str) -> str:
    """The command that asks the served model for the report's first picture."""
    url = f"http://{recipe.serve.host}:{recipe.serve.port}/v1/generate/mask"
    fields = f"-F condition=@{shlex.quote(mask)} --form-string {shlex.quote(f'prompt={prompt}')} -F seed=0"
    return f"curl -sS -H 'Accept: image/png' {fields} -o face.png {url}"
