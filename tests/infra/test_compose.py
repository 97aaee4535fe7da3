"""The compose stack fits its schema, is as closed as it claims, and starts what there is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.commands import check_command
from tests.infra.manifests import INFRA, ROOT, compose, tool
from tests.infra.test_kuberay import check_serve

COMPOSE = INFRA / "compose"
SERVICES: dict[str, dict[str, Any]] = compose()["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
ONCE = {"bucket", "serve"}
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)(:\?[^}]*)?\}")
LIMITS = {"RAY_CPUS", "SERVER_CPUS", "RAY_HEAD_MEMORY", "RAY_WORKER_MEMORY", "RAY_OBJECT_STORE", "RAY_SHM"}
GIB = 2**30


def test_the_schema_takes_it() -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_services_are_closed() -> None:
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"cpus", "memory"} == set(service["deploy"]["resources"]["limits"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+(\.\d+)?(-[a-z]+)?", service["image"]), service["image"]
    assert [name for name, service in SERVICES.items() if "cap_add" in service] == ["s3"]


def test_services_wait_for_health() -> None:
    for name, service in SERVICES.items():
        assert service["healthcheck"].get("disable", False) == (name in ONCE), name
        for other, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other in ONCE else "service_healthy"
            assert how == {"condition": wanted}, (name, other)


def test_up_waits_for_the_end_of_what_ends() -> None:
    """Otherwise ``up --wait`` takes the end of a service for a failure and exits with 1."""
    waited_for = {
        other
        for service in SERVICES.values()
        for other, how in service.get("depends_on", {}).items()
        if how == {"condition": "service_completed_successfully"}
    }
    assert waited_for == ONCE


def make_environment(folder: Path, machine: str | None = None) -> dict[str, str]:
    """What the script writes beside itself, where Docker says this of its machine or does not answer."""
    script = shutil.copy(COMPOSE / "make-env.sh", folder)
    docker = folder / "bin" / "docker"
    docker.parent.mkdir(exist_ok=True)
    docker.write_text(f"#!/bin/sh\necho {machine}\n" if machine else "#!/bin/sh\necho 0 0\nexit 1\n")
    docker.chmod(0o755)
    path = f"{docker.parent}:{os.environ['PATH']}"
    subprocess.run(["sh", script], check=True, capture_output=True, env={**os.environ, "PATH": path})
    return dict(line.split("=") for line in (folder / ".env").read_text().splitlines())


def test_variables_come_from_the_file_that_the_script_makes(tmp_path: Path) -> None:
    made = make_environment(tmp_path)
    asked = set(VARIABLE.findall((COMPOSE / "compose.yaml").read_text("utf-8")))
    assert {name for name, _ in asked} == set(made)
    assert all(remedy for _, remedy in asked), "without .env nothing may start"
    secrets = {name: value for name, value in made.items() if name not in LIMITS}
    assert all(len(value) == 48 for value in secrets.values())
    assert len(set(secrets.values())) == len(secrets) == 7
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    again = subprocess.run(["sh", str(tmp_path / "make-env.sh")], check=False, capture_output=True)
    assert again.returncode == 1, "passwords that databases know were overwritten"
    ignored = subprocess.run(["git", "check-ignore", "-q", str(COMPOSE / ".env")], cwd=ROOT, check=False)
    assert ignored.returncode == 0


def test_an_older_file_keeps_its_secrets_and_gets_limits(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=known\n")
    made = make_environment(tmp_path)
    assert set(made) == {"POSTGRES_PASSWORD", *LIMITS}
    assert made["POSTGRES_PASSWORD"] == "known"


@pytest.mark.parametrize(("cores", "gib"), [(1, 4), (2, 24), (8, 16), (64, 512)])
def test_limits_fit_the_machine(tmp_path: Path, cores: int, gib: int) -> None:
    made = make_environment(tmp_path, f"{cores} {gib * GIB}")
    given = {name: int(made[name]) for name in LIMITS}
    for service in SERVICES.values():
        cpus = service["deploy"]["resources"]["limits"]["cpus"]
        assert float(VARIABLE.sub(lambda match: made[match[1]], cpus)) <= cores
    for node in ("RAY_HEAD_MEMORY", "RAY_WORKER_MEMORY"):
        assert given["RAY_SHM"] < given[node] * 2 / 3 <= gib * GIB / 3
    if cores >= 4 and gib >= 32:
        assert (given["RAY_CPUS"], given["RAY_HEAD_MEMORY"], given["RAY_WORKER_MEMORY"]) == (4, 8 * GIB, 16 * GIB)


def test_limits_without_docker_are_those_of_this_machine(tmp_path: Path) -> None:
    made = make_environment(tmp_path)
    assert 1 <= int(made["RAY_CPUS"]) <= (os.cpu_count() or 1)
    assert 0 < int(made["RAY_WORKER_MEMORY"]) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2


def test_the_object_store_fits_into_shared_memory(tmp_path: Path) -> None:
    """Ray would put it on the disk otherwise."""
    made = make_environment(tmp_path, f"4 {16 * GIB}")
    for name in ("ray-head", "ray-worker"):
        assert VARIABLE.fullmatch(SERVICES[name]["shm_size"])[1] == "RAY_SHM"  # type: ignore[index]
        assert "--object-store-memory ${RAY_OBJECT_STORE:" in SERVICES[name]["command"]
    assert int(made["RAY_OBJECT_STORE"]) <= 0.95 * int(made["RAY_SHM"])


def test_who_knows_which_secret() -> None:
    knows = {
        name: {match[0] for match in VARIABLE.findall(json.dumps(service))}
        - {"S3_ACCESS_KEY", "S3_SECRET_KEY"}
        - LIMITS
        for name, service in SERVICES.items()
    }
    assert {name: secrets for name, secrets in knows.items() if secrets} == {
        "postgres": {"POSTGRES_PASSWORD", "PREFECT_DB_PASSWORD", "MLFLOW_DB_PASSWORD"},
        "mlflow": {"MLFLOW_DB_PASSWORD"},
        "prefect": {"PREFECT_DB_PASSWORD"},
        "worker": {"RAY_TOKEN"},
        "ray-head": {"RAY_TOKEN"},
        "ray-worker": {"RAY_TOKEN"},
        "serve": {"RAY_TOKEN"},
        "grafana": {"GRAFANA_PASSWORD"},
    }


@pytest.mark.parametrize("name", [name for name in OURS if name != "bucket"])
def test_commands_start_what_there_is(name: str) -> None:
    check_command(SERVICES[name]["command"])


@pytest.mark.usefixtures("s3_bucket")
def test_the_buckets_are_made_once() -> None:
    import boto3

    python, option, program = SERVICES["bucket"]["command"]
    assert (python, option) == ("python", "-c")
    for _ in range(2):
        exec(program, {})
    names = {bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]}
    used = {SERVICES["worker"]["environment"]["MMFACE_HOME"], *re.findall(r"s3://\S+", SERVICES["mlflow"]["command"])}
    assert {uri.removeprefix("s3://").partition("/")[0] for uri in used} <= names


def test_addresses_name_services_and_their_ports() -> None:
    text = (COMPOSE / "compose.yaml").read_text("utf-8") + (
        INFRA / "grafana/provisioning/datasources/prometheus.yaml"
    ).read_text("utf-8")
    hosts = set(re.findall(r"(?:https?://|@|--address )([a-z0-9-]+):\d+", text)) - {"localhost"}
    assert hosts <= set(SERVICES), hosts
    (_, ray) = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    (sd,) = ray["dns_sd_configs"]
    for name in sd["names"]:
        assert f"--metrics-export-port {sd['port']}" in SERVICES[name]["command"]


def test_mounted_files_are_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (COMPOSE / source).exists(), volume


def test_the_service_is_declared_as_serve_wants_it() -> None:
    config = yaml.safe_load((COMPOSE / "serve.yaml").read_text("utf-8"))
    check_serve(config)
    assert f"127.0.0.1:8000:{config['http_options']['port']}" in SERVICES["ray-head"]["ports"]


def test_databases_are_made_by_a_script_that_a_shell_reads() -> None:
    subprocess.run(["sh", "-n", str(COMPOSE / "databases.sh")], check=True)
