"""The release of a bundle: register, gate, warm up, move the alias, test the service over HTTP, report (§8)."""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.steps.artifacts import show_decision, show_report
from flows.steps.champions import Turn, describe_champion, turn
from flows.steps.evaluation import evalset_of, paint_and_bundle, scores_of_version
from flows.steps.hooks import HOOKS
from flows.steps.line import Run, begin, prepare_data, tracked, train_phases, with_collection
from flows.steps.preflight import KEY, SERVICE, check_key
from flows.steps.promotion import promote
from flows.steps.tasks import work
from flows.steps.trial import try_service
from mmface.bundles import registry, tracking
from mmface.bundles.moves import read_past
from mmface.bundles.verdicts import record_decision
from mmface.config import Recipe
from mmface.datasets.dataset import Dataset, open_dataset, upstream
from mmface.errors import DatasetError, MMFaceError
from mmface.evaluate.deciding.decision import Decision
from mmface.evaluate.deciding.gate import decide
from mmface.evaluate.deciding.summary import FIGURES, read_figures
from mmface.evaluate.leaks import FILE as LEAKS
from mmface.evaluate.leaks import read_leaks
from mmface.evaluate.report.evaluation import warnings_of
from mmface.evaluate.report.page import Report, render_report
from mmface.evaluate.report.pictures import choose, grid
from mmface.evaluate.scores import Scores
from mmface.store import Store

log = logging.getLogger(__name__)

BUNDLE, METRICS = "bundle", "metrics.json"
SERVED, MASK, GRID, REPORT = "served.png", "mask.png", "grid.png", "report.html"


@dataclass(frozen=True)
class Release:
    """The result of a retraining; without report and curl command when there was nothing new."""

    version: str
    champion: bool
    reason: str
    metrics: dict[str, float]
    report: str = ""
    curl: str = ""
    verdict: str = ""

    def summary(self) -> str:
        """The last lines that the terminal shows."""
        if not self.report:
            return self.reason
        title = f"version {self.version} {'is the champion' if self.champion else f'was {self.verdict}'}: {self.reason}"
        kinds = ("mask/", "sketch/edge")
        shown = {name: of for name, of in self.metrics.items() if name.startswith(kinds) and "/iou/" not in name}
        width = max(map(len, shown), default=0)
        figures = [f"  {name:{width}}{value:10.4f}" for name, value in sorted(shown.items())]
        return "\n".join([title, *figures, f"report: {self.report}", "serve:  mmface serve", f"call:   {self.curl}"])


@flow(name="release", **HOOKS)
def release(recipe: str = "demo", overrides: tuple[str, ...] = (), bundle: str | None = None) -> Release:
    """Registers a bundle and promotes it if the gate passes: warm up, move the alias, test the service, report.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file.
        overrides: KEY=VALUE, one recipe key each, such as gate.min_mask_miou=0.4.
            ``mmface recipe explain KEY`` describes a key.
        bundle: URI of a published bundle; by default the one that this recipe made from its present photographs.

    Raises:
        DatasetError: there is no such bundle.
        MMFaceError: a user error, or a server does not answer.
    """
    with tracked(begin(recipe, overrides)) as run:
        check_key(run.recipe)
        return release_bundle(run, bundle or find_bundle(run))


def find_bundle(run: Run) -> str:
    """The URI of the bundle that the recipe made. Raises DatasetError when one of its stages is not published."""
    found = with_collection(run.only_finding("prepare"))
    data = prepare_data(found)
    trained = train_phases(found.only_finding("train"), data)
    return paint_and_bundle(found.only_finding("evaluate"), data, trained)


def release_bundle(run: Run, bundle: str) -> Release:
    """Registers the bundle, lets the gate decide, promotes the version and reports.

    Releases of one model run one after another: each compares with the champion that the previous release left.

    Args:
        bundle: URI of the ``bundle`` dataset.

    Raises:
        MMFaceError: the version passed the gate but could not be promoted; the report and the message name the
            champion.
    """
    made = open_dataset(bundle)
    if made.manifest.stage != BUNDLE:
        raise DatasetError(f"{bundle} is a dataset of the stage {made.manifest.stage}, not a bundle", field="bundle")
    if "scores" not in made.manifest.inputs:
        message = f"{bundle} was made by an earlier release, without an evaluation set; run mmface retrain again"
        raise DatasetError(message, field="bundle")
    with turn(run.home, run.recipe.serve.model_name, run.flow_run, [bundle]) as mine:
        return _release(run, made, mine)


def _release(run: Run, made: Dataset, mine: Turn) -> Release:
    recipe, mlflow_run = run.recipe, str(run.mlflow_run)
    metrics = read_metrics(made.read(f"{BUNDLE}/{METRICS}"))
    datasets, figures = upstream(made.uri), read_figures(made.read(f"{BUNDLE}/{FIGURES}"))
    version = register(recipe, made, mlflow_run)
    mine.challenge(version)
    leaks = [leak.held_out for leak in read_leaks(made.read(f"{BUNDLE}/{LEAKS}"))]
    decision = gate(run, version, read_scores(made), champion_scores(run, made, version), leaks)
    show_decision(version, decision, metrics)
    place = run.home.child(f"reports/{made.manifest.fingerprint}")
    prompt = prepare_example(made, place)
    failure: MMFaceError | None = None
    if decision.passed and serves_trial(recipe, mine, version):
        mine.start_trial(version, str(recipe.serve.canary.alias), decision.reason)
    elif decision.passed:
        confirm = partial(confirm_service, recipe, run.home, place, version, prompt)
        try:
            promote(run, mine, version, decision.reason, work.with_options(name="warm"), confirm)
        except MMFaceError as error:
            failure = error
    page = Report(
        recipe=recipe,
        datasets=datasets,
        metrics=metrics,
        figures=figures,
        warnings=warnings_of(datasets["scores"], datasets["evalset"]),
        decision=decision,
        version=version,
        champion=mine.champion() == version,
        curl=curl_command(recipe, prompt, f"{place.uri}/{MASK}"),
        links={"MLflow run": mlflow_run},
        served=place.read(SERVED) if place.exists(SERVED) else None,
        failure=failure.message if failure else "",
    )
    write_report(page, place, mlflow_run)
    if failure:
        raise failure
    verdict = decision.verdict
    return Release(version, page.champion, decision.reason, metrics, f"{place.uri}/{REPORT}", page.curl, verdict)


def serves_trial(recipe: Recipe, mine: Turn, version: str) -> bool:
    """Whether the service decides about the version as its canary, beside a champion."""
    return recipe.serve.canary.auto and mine.champion() not in (None, version)


def confirm_service(recipe: Recipe, home: Store, place: Store, version: str, prompt: str) -> None:
    """Generates an image with ``version`` at the service and stores it beside the report, unless it is there."""
    if not place.exists(SERVED):
        picture = try_service(recipe, home, version, prompt, place.read(MASK))
        if picture:
            place.write(SERVED, picture)


def nothing_new(run: Run, version: str) -> Release:
    """The result of a run that found nothing new since ``version``."""
    name = run.recipe.serve.model_name
    reason = (
        f"nothing new: version {version} was trained on these photographs with this recipe; {describe_champion(name)}"
    )
    metrics = read_metrics(registry.read_file(name, version, METRICS))
    return Release(version, registry.get_alias(name, registry.CHAMPION) == version, reason, metrics)


def read_metrics(text: str | bytes) -> dict[str, float]:
    """The metrics of a bundle; null, which stands for a value that is not finite, becomes NaN."""
    figures = json.loads(text)
    return {name: math.nan if value is None else value for name, value in figures.items()}


def prepare_example(bundle: Dataset, place: Store) -> str:
    """Stores the first mask of the evaluation beside the report, for the curl command; returns its prompt."""
    first = choose(upstream(bundle.uri)["samples"], 1, ["mask"])[0]
    place.write(MASK, first["condition"])
    return str(first["prompt"])


@task(cache_policy=NO_CACHE)
def register(recipe: Recipe, made: Dataset, mlflow_run: str) -> str:
    """Registers the bundle and returns its version; the same bundle always gets the same version."""
    with tempfile.TemporaryDirectory() as folder:
        return registry.register_bundle(made.download(BUNDLE, Path(folder)), mlflow_run, recipe.serve.model_name)


def read_scores(made: Dataset) -> Scores:
    """The scores that a bundle was made with."""
    return Scores.of(open_dataset(made.manifest.inputs["scores"]))


def champion_scores(run: Run, made: Dataset, version: str) -> Scores | None:
    """The champion's scores on the evaluation set of the bundle ``made``, by the judges of its recipe.

    None if the gate compares nothing, or if there is no champion beside ``version``.
    """
    name, asked = run.recipe.serve.model_name, run.recipe.gate
    champion = read_past(name).current
    compares = asked.compare or asked.better or asked.max_frechet_ratio_to_champion is not None
    if champion in (None, version) or not compares:
        return None
    return Scores.of(open_dataset(scores_of_version(run, name, str(champion), evalset_of(made.uri))))


@task(cache_policy=NO_CACHE)
def gate(run: Run, version: str, scores: Scores, champion: Scores | None, leaks: list[str]) -> Decision:
    """Decides whether ``version`` may become champion, and records it. A former champion never passes: promote it by
    hand.

    Args:
        leaks: photographs of the evaluation set that the version was trained on.
    """
    name = run.recipe.serve.model_name
    decision = decide(scores, champion, run.recipe.gate, leaks=leaks)
    # Before the objection to a former champion, which a promotion by hand may overrule.
    record_decision(name, version, decision.verdict, decision.reason, json.dumps(decision.to_dict()))
    objection = read_past(name).objection(version)
    if objection:
        remedy = f"change the recipe, or bring it back with mmface models promote {version} --why TEXT"
        decision = replace(decision, objection=f"{objection}; {describe_champion(name)}; {remedy}")
    log.info("gate: version %s: %s: %s", version, decision.verdict, decision.reason)
    return decision


@task(cache_policy=NO_CACHE)
def write_report(page: Report, place: Store, mlflow_run: str) -> None:
    """Writes the HTML report and its contact sheet to the store and to MLflow, and its address to Prefect."""
    samples = page.datasets["samples"]
    with tempfile.TemporaryDirectory() as scratch:
        for name, data in ((REPORT, render_report(page).encode()), (GRID, grid(samples, page.recipe.evaluate.grid))):
            place.write(name, data)
            (Path(scratch) / name).write_bytes(data)
        tracking.log_artifact(mlflow_run, Path(scratch), "report")
    limits = {f"{one.name}_{end}": getattr(one, end) for one in page.figures for end in ("low", "high")}
    known = {**page.metrics, **{name: value for name, value in limits.items() if value is not None}}
    tracking.log_metrics(mlflow_run, {name: value for name, value in known.items() if math.isfinite(value)})
    show_report(f"{place.uri}/{REPORT}")


def curl_command(recipe: Recipe, prompt: str, mask: str) -> str:
    """The curl command that generates the first image of the report at the service."""
    url = os.environ.get(SERVICE) or f"http://{recipe.serve.host}:{recipe.serve.port}"
    fetch = ""
    if mask.startswith("s3://"):
        fetch, mask = f"aws s3 cp {shlex.quote(mask)} {MASK} && ", MASK
    key = f' -H "Authorization: Bearer ${KEY}"' if recipe.serve.api_keys_env else ""
    fields = f"-F condition=@{shlex.quote(mask)} --form-string {shlex.quote(f'prompt={prompt}')} -F seed=0"
    return f"{fetch}curl -sS -H 'Accept: image/png'{key} {fields} -o face.png {url.rstrip('/')}/v1/generate/mask"
