"""Every variable that a manifest sets is read by our code or by a named program, and is on the page about variables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.infra.manifests import INFRA, ROOT, compose, objects, pods

# Read by the programs in the images, not by Python code that can be asked.
DOCUMENTED = {
    "MLFLOW_BACKEND_STORE_URI": "mlflow server, instead of --backend-store-uri",
    "POSTGRES_USER": "postgres image",
    "POSTGRES_PASSWORD": "postgres image",
    "GF_SECURITY_ADMIN_PASSWORD": "Grafana: GF_<section>_<key>",
    "GF_ANALYTICS_REPORTING_ENABLED": "Grafana",
    "GF_ANALYTICS_CHECK_FOR_UPDATES": "Grafana",
    "GF_USERS_ALLOW_SIGN_UP": "Grafana",
    "NVIDIA_VISIBLE_DEVICES": "NVIDIA's container runtime",
    "NVIDIA_DRIVER_CAPABILITIES": "NVIDIA's container runtime",
    "PYTHONUNBUFFERED": "Python",
    "PYTHONDONTWRITEBYTECODE": "Python",
    "PATH": "every shell",
    "RAY_AUTH_MODE": "Ray, token authentication",
    "RAY_AUTH_TOKEN": "Ray, token authentication",
    "RAY_ADDRESS": "Ray",
    "RAY_USAGE_STATS_ENABLED": "Ray, usage statistics",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "Ray, accelerators",
    "AWS_ENDPOINT_URL": "boto3",
    "AWS_DEFAULT_REGION": "boto3",
    "AWS_ACCESS_KEY_ID": "boto3; SeaweedFS",
    "AWS_SECRET_ACCESS_KEY": "boto3; SeaweedFS",
    "HF_HOME": "huggingface_hub",
    "DO_NOT_TRACK": "Prefect, MLflow: the common sign of telemetry switched off",
}
OURS = ("mmface", "ray_jobs", "serve", "flows")


def settings() -> Iterator[tuple[str, str]]:
    """``(where, variable)`` of everything that is set."""
    for name, service in compose()["services"].items():
        yield from ((f"compose {name}", variable) for variable in service.get("environment", {}))
    for name, made in objects():
        if made["kind"] == "ConfigMap":
            yield from ((f"kuberay {name}", variable) for variable in made["data"])
        for spec in pods(made):
            for container in spec["containers"]:
                yield from ((f"kuberay {name}", each["name"]) for each in container.get("env", ()))
    text = (INFRA / "docker" / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    for line in re.findall(r"^ENV (.+)$", text, re.MULTILINE):
        yield from (("Dockerfile", variable) for variable in re.findall(r"(\w+)=", line))


def known() -> set[str]:
    """What our code, our scripts, Prefect and MLflow read."""
    import prefect.settings
    from mlflow import environment_variables as mlflow

    sources = "".join(path.read_text("utf-8") for package in OURS for path in (ROOT / package).rglob("*.py"))
    scripts = "".join(path.read_text("utf-8") for path in (INFRA / "compose").glob("*.sh"))
    ours = set(re.findall(r'"([A-Z][A-Z0-9_]+)"', sources)) | set(re.findall(r"\$([A-Z][A-Z0-9_]+)", scripts))
    theirs = {value.name for value in vars(mlflow).values() if isinstance(value, mlflow._EnvironmentVariable)}
    return ours | theirs | _prefect(prefect.settings.Settings)


def _prefect(model: Any) -> set[str]:
    made: set[str] = set()
    for name, field in model.model_fields.items():
        nested = field.annotation
        if hasattr(nested, "model_fields"):
            made |= _prefect(nested)
        made.add(f"{model.model_config.get('env_prefix', '')}{name}".upper())
        made |= {str(each).upper() for each in getattr(field.validation_alias, "choices", ())}
    return made


def test_every_variable_is_read_by_something() -> None:
    reads = known() | set(DOCUMENTED)
    unknown = {(where, variable) for where, variable in settings() if variable not in reads}
    assert not unknown


def test_nothing_is_documented_that_is_not_set() -> None:
    assert set(DOCUMENTED) <= {variable for _, variable in settings()}


def test_the_reference_page_tells_of_them() -> None:
    told = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", (ROOT / "docs" / "reference" / "environment.md").read_text("utf-8")))
    platform = {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
    assert {variable for _, variable in settings()} - platform <= told
