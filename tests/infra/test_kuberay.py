"""The manifests fit KubeRay's and Kubernetes' schemas, are as closed as they claim, and start what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from ray._private.ray_constants import DEFAULT_OBJECT_STORE_MEMORY_PROPORTION
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from mmface.config import Recipe
from mmface.config.load import load_recipe
from serve.declared import Arguments, application
from tests.infra.commands import check_command
from tests.infra.manifests import INFRA, RAY_KINDS, ROOT, objects, overlay, pods
from tests.infra.schemas.reduce import reduce

SCHEMAS: dict[str, Any] = json.loads((Path(__file__).parent / "schemas" / "kuberay-v1.json").read_text("utf-8"))
CRDS = ROOT.parent / "shared" / "schemas" / "kuberay"
KUBERNETES = "1.37"


def test_every_stage_has_a_job() -> None:
    stages = {"images", "conditions", "captions", "text", "latents", "train-0", "train-1"}
    stages |= {"evalset", "samples", "scores", "bundle"}
    for name in ("dev/jobs", "prod/jobs"):
        assert {made["metadata"]["name"].removeprefix("mmface-") for made in overlay(name)} == stages


@pytest.mark.parametrize(("name", "made"), list(objects(*RAY_KINDS)), ids=lambda value: str(value)[:9])
def test_kuberay_takes_it(name: str, made: dict[str, Any]) -> None:
    assert made["apiVersion"] == "ray.io/v1"
    schema = SCHEMAS[made["kind"]] | {"$defs": SCHEMAS["$defs"]}
    problems = [f"{error.json_path}: {error.message[:200]}" for error in Draft202012Validator(schema).iter_errors(made)]
    assert not problems, (name, problems)


def test_a_misspelt_field_is_found() -> None:
    made = next(made for _, made in objects("RayCluster"))
    wrong = json.loads(json.dumps(made))
    wrong["spec"]["workerGroupSpecs"][0]["template"]["spec"]["tolerationz"] = []
    assert not Draft202012Validator(SCHEMAS["RayCluster"] | {"$defs": SCHEMAS["$defs"]}).is_valid(wrong)


@pytest.mark.skipif(not CRDS.is_dir(), reason="KubeRay's own definitions are not beside this checkout")
def test_the_schemas_are_those_of_the_definitions() -> None:
    assert reduce(CRDS) == SCHEMAS


def test_kubernetes_takes_the_rest() -> None:
    examples = yaml.safe_load_all((INFRA / "kuberay" / "secrets.example.yaml").read_text("utf-8"))
    rest = [made for _, made in objects() if made["kind"] not in RAY_KINDS] + list(examples)
    assert {made["kind"] for made in rest} >= {"NetworkPolicy", "Deployment", "ServiceAccount", "ConfigMap", "Secret"}
    for made in rest:
        kubernetes_validate.validate(made, KUBERNETES, strict=True)
    # KubeRay's definitions leave values like a probe's or a volume's to Kubernetes.
    for _, made in objects(*RAY_KINDS):
        for spec in pods(made):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "of-it"}, "spec": spec}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_pods_are_closed() -> None:
    seen = 0
    for name, made in objects():
        for spec in pods(made):
            seen += 1
            assert spec["automountServiceAccountToken"] is False, (name, made["kind"])
            security = spec["securityContext"]
            assert security["runAsNonRoot"] is True
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            mounted = {each["name"] for each in spec.get("volumes", ())}
            for container in spec["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert {"cpu", "memory"} <= set(container["resources"]["limits"])
                assert set(container["resources"]["requests"]) <= set(container["resources"]["limits"])
                assert {each["name"] for each in container["volumeMounts"]} <= mounted
                assert re.fullmatch(r"mmface:\d+\.\d+\.\d+-(cpu|cuda)", container["image"]), container["image"]
    assert seen >= 20


def test_the_object_store_fits_into_shared_memory() -> None:
    """Where a group brings its own, which KubeRay would size by the pod's memory."""
    seen = 0
    for name, made in objects(*RAY_KINDS):
        for spec in pods(made):
            (container, *_) = spec["containers"]
            mounted = {each["name"] for each in container["volumeMounts"] if each["mountPath"] == "/dev/shm"}
            for volume in spec["volumes"]:
                if volume["name"] in mounted:
                    seen += 1
                    shared, memory = (
                        quantity(size)
                        for size in (volume["emptyDir"]["sizeLimit"], container["resources"]["limits"]["memory"])
                    )
                    store = DEFAULT_OBJECT_STORE_MEMORY_PROPORTION * memory
                    assert store < 0.95 * shared < 0.5 * memory, (name, made["kind"])
    assert seen


def quantity(text: str) -> float:
    """Bytes of a size in Gi."""
    return float(text.removesuffix("Gi")) * 2**30


def test_ray_asks_for_a_token_and_secrets_are_referred_to() -> None:
    known = {made["metadata"]["name"]: set(made["stringData"]) for made in _examples()}
    for name, made in objects():
        assert made["kind"] != "Secret"
        for spec in _clusters(made):
            assert spec["authOptions"] == {"mode": "token", "secretName": "mmface-ray"}
            assert spec["rayVersion"] == _ray_version()
            assert spec["enableInTreeAutoscaling"] is True
        for reference in _find(made, "secretKeyRef"):
            assert reference["key"] in known[reference["name"]], name
        for reference in _find(made, "secretRef"):
            assert reference["name"] in known, name
    assert all(value == "" for made in _examples() for value in made["stringData"].values())


def test_the_example_holds_no_secret() -> None:
    text = "".join(path.read_text("utf-8") for path in INFRA.rglob("*.yaml"))
    assert not re.search(r"AKIA[0-9A-Z]{16}|[0-9a-f]{32}|-----BEGIN", text)


def test_names_do_not_meet() -> None:
    """KubeRay makes services and accounts of these names; two of one name would fight over them."""
    for name in ("dev", "prod"):
        names = [made["metadata"]["name"] for made in overlay(name) if made["kind"] in (*RAY_KINDS, "ServiceAccount")]
        assert len(names) == len(set(names)), name


def test_references_inside_lead_somewhere() -> None:
    for name in ("dev", "prod"):
        kinds = {(made["kind"], made["metadata"]["name"]) for made in overlay(name)}
        worker = next(made for made in overlay(name) if made["kind"] == "Deployment")
        told = {
            each["name"]: each.get("value", "") for each in worker["spec"]["template"]["spec"]["containers"][0]["env"]
        }
        cluster = re.fullmatch(r"http://(.+)-head-svc:8265", told["RAY_ADDRESS"])
        service = re.fullmatch(r"http://(.+)-serve-svc:8000", told["MMFACE_SERVE_URL"])
        assert cluster
        assert service
        assert {("RayCluster", cluster[1]), ("RayService", service[1])} <= kinds
        for made in overlay(f"{name}/jobs"):
            selected = made["spec"]["clusterSelector"]["ray.io/cluster"]
            assert ("RayCluster", selected) in kinds
            assert made["metadata"]["namespace"] == worker["metadata"]["namespace"]
            # KubeRay refuses these together with a selector.
            assert not {"rayClusterSpec", "shutdownAfterJobFinishes", "suspend", "backoffLimit"} & set(made["spec"])


def test_jobs_start_what_there_is() -> None:
    for name in ("dev/jobs", "prod/jobs"):
        for made in overlay(name):
            check_command(made["spec"]["entrypoint"])
            assert ("paper-flow" in made["spec"]["entrypoint"]) == (name == "prod/jobs")
    for _, made in objects("Deployment"):
        check_command(made["spec"]["template"]["spec"]["containers"][0]["args"])


def test_the_service_is_declared_as_serve_wants_it() -> None:
    for name, made in objects("RayService"):
        recipe = check_serve(yaml.safe_load(made["spec"]["serveConfigV2"]))
        (group,) = made["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        (container,) = group["template"]["spec"]["containers"]
        assert recipe.serve.use_gpu == ("nvidia.com/gpu" in container["resources"]["limits"]), name
        assert made["spec"]["upgradeStrategy"] == {"type": "NewCluster"}
        assert made["spec"]["rayClusterDeletionDelaySeconds"] > recipe.serve.timeout_s
        # A GPU node has room for one replica, so there have to be as many nodes as replicas.
        if recipe.serve.use_gpu:
            assert group["maxReplicas"] >= (recipe.serve.max_replicas or recipe.serve.replicas)


def check_serve(config: dict[str, Any]) -> Recipe:
    """The recipe of a Serve config whose application there is."""
    (declared,) = ServeDeploySchema.model_validate(config).applications
    assert declared.import_path == "serve.declared:application"
    arguments = Arguments.model_validate(declared.args)
    assert isinstance(application(arguments), Application)
    return load_recipe(arguments.recipe, list(arguments.overrides))


def _ray_version() -> str:
    match = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert match
    return match[1]


def _clusters(made: dict[str, Any]) -> list[dict[str, Any]]:
    spec = made.get("spec", {})
    return [spec] if made["kind"] == "RayCluster" else [spec[key] for key in ("rayClusterConfig",) if key in spec]


def _examples() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((INFRA / "kuberay" / "secrets.example.yaml").read_text("utf-8")))


def _find(made: Any, wanted: str) -> list[dict[str, Any]]:
    if isinstance(made, dict):
        here = [made[wanted]] if wanted in made else []
        return here + [found for value in made.values() for found in _find(value, wanted)]
    return [found for value in made for found in _find(value, wanted)] if isinstance(made, list) else []
