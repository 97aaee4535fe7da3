"""OpenLineage events of stages, derived from published manifests: stages are jobs, datasets are datasets (§8).

The run of a stage is the making of one dataset, and its id is a pure function of the dataset. A dataset that is
reported again, by any process, gives the same events, so reporting a stage that was found published repeats what is
true and adds no run. A failed attempt is a run of its own. Both events of a run are made when it has ended.

Versions of a stage's dataset share one name, as lineage servers expect; the facet ``version`` is the fingerprint.
Specification: https://openlineage.io/docs/spec/object-model. Needs the extra ``lineage``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    JobFacet,
    RunFacet,
    error_message_run,
    job_type_job,
    parent_run,
    processing_engine_run,
)
from openlineage.client.uuid import generate_new_uuid, generate_static_uuid

from flows.lineage.event_datasets import ENGINE, PRODUCER, inputs_of, output_of, source
from mmface.datasets.dataset import open_dataset
from mmface.datasets.inventory import Held
from mmface.datasets.manifest import Identity
from mmface.store import Store

NAMESPACE_VARIABLE, NAMESPACE = "OPENLINEAGE_NAMESPACE", "mmface"


@dataclass(frozen=True)
class Parent:
    """The flow run that ran a stage.

    Attributes:
        flow: name of the flow.
        run: id of its run in Prefect, a UUID.
    """

    flow: str
    run: str


def published_events(home: Store, one: Held, parent: Parent | None = None) -> list[RunEvent]:
    """START and COMPLETE of the run that made a published dataset.

    Args:
        parent: the flow run that ran the stage; None if it is not known.
    """
    dataset = open_dataset(f"{home.uri}/{one.key}")
    manifest, ended = dataset.manifest, datetime.fromtimestamp(one.modified, UTC)
    run_id = generate_static_uuid(ended, f"{_namespace()} {dataset.uri}".encode())
    inputs, outputs = inputs_of(home, manifest), [output_of(home, one, dataset)]
    job, run = _job(manifest.stage), _run(str(run_id), parent, manifest.code_version)
    return [
        _event(RunState.START, one.modified - manifest.seconds, job, run, inputs, outputs),
        _event(RunState.COMPLETE, one.modified, job, run, inputs, outputs),
    ]


def failed_events(
    identity: Identity, began: float, ended: float, error: BaseException, parent: Parent | None = None
) -> list[RunEvent]:
    """START and the end of an attempt that published nothing: FAIL for an error, ABORT for an interrupt.

    Args:
        began, ended: seconds since the epoch.
    """
    job, run = _job(identity.stage), _run(str(generate_new_uuid()), parent, version("mmface"))
    inputs = [source(uri) for uri in identity.inputs.values()]
    told: dict[str, RunFacet] = {
        "errorMessage": error_message_run.ErrorMessageRunFacet(
            message=str(error) or type(error).__name__, programmingLanguage="Python", producer=PRODUCER
        )
    }
    state = RunState.FAIL if isinstance(error, Exception) else RunState.ABORT
    return [
        _event(RunState.START, began, job, run, inputs, []),
        _event(state, ended, job, Run(run.runId, {**(run.facets or {}), **told}), inputs, []),
    ]


def _event(
    state: RunState, at: float, job: Job, run: Run, inputs: list[InputDataset], outputs: list[OutputDataset]
) -> RunEvent:
    when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return RunEvent(
        eventTime=when, producer=PRODUCER, eventType=state, job=job, run=run, inputs=inputs, outputs=outputs
    )


def _namespace() -> str:
    return os.environ.get(NAMESPACE_VARIABLE) or NAMESPACE


def _job(stage: str) -> Job:
    kind: dict[str, JobFacet] = {
        "jobType": job_type_job.JobTypeJobFacet(
            processingType="BATCH", integration="MMFACE", jobType="STAGE", producer=PRODUCER
        )
    }
    return Job(_namespace(), stage, kind)


def _run(run_id: str, parent: Parent | None, code_version: str) -> Run:
    facets: dict[str, RunFacet] = {
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
            version=code_version, name=ENGINE, producer=PRODUCER
        )
    }
    if parent is not None:
        facets["parent"] = parent_run.ParentRunFacet(
            run=parent_run.Run(parent.run), job=parent_run.Job(_namespace(), parent.flow), producer=PRODUCER
        )
    return Run(run_id, facets)
