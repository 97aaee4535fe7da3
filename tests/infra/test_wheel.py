"""A wheel has all that the commands read: they work where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.infra.manifests import ROOT

PACKAGES = ("mmface", "flows", "ray_jobs", "serve", "infra/prefect", "infra/grafana")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an unpacked wheel, built of a copy: setuptools leaves its work in the tree that it builds."""
    tree, site = (tmp_path_factory.mktemp(name) for name in ("tree", "site"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(tree)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with ZipFile(tree / done.stdout.split()[-1]) as wheel:
        wheel.extractall(site)
    return site


def files(root: Path) -> set[str]:
    found = (path for name in PACKAGES for path in (root / name).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix() for path in found if "__pycache__" not in path.parts}


def test_every_file_of_a_package_is_in_the_wheel(site: Path) -> None:
    assert files(site) == files(ROOT)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("deploy", ["mmface: error: PREFECT_API_URL: nothing answers at http://127.0.0.1:9/api"]),
        ("doctor", ["zoo:vae", "deployments {site}/infra/prefect/prefect.yaml", "dashboards {site}/infra/grafana"]),
    ],
)
def test_commands_work_outside_a_checkout(site: Path, command: str, said: list[str], tmp_path: Path) -> None:
    nowhere = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    environment = {**os.environ, **nowhere, "PYTHONPATH": str(site), "MMFACE_HOME": str(tmp_path / "home")}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [" ".join(line.split()) for line in (done.stdout + done.stderr).splitlines()]
    for one in said:
        assert any(one.format(site=site) in line and "MISSING" not in line for line in lines), done.stdout + done.stderr
