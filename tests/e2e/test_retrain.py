"""A small retraining from end to end with all real parts: Prefect, Ray Data, Ray Train, MLflow, Ray Serve over HTTP."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from prefect.client.orchestration import get_client

from flows.cli.command_line import main
from mmface.bundles.registry import list_versions
from mmface.store import Store

SMALL = [
    "portraits.n=24",
    "portraits.size=64",
    "data.min_size=32",
    "data.holdout=0.3",
    "model.hidden_size=64",
    "model.depth=2",
    "model.num_heads=4",
    "phases.0.resolution=32",
    "phases.0.steps=6",
    "phases.0.batch_size=4",
    "phases.1.resolution=64",
    "phases.1.steps=6",
    "phases.1.batch_size=4",
    "sampling.num_inference_steps=2",
    "evaluate.n=4",
    "evaluate.n_sketch=2",
    "evaluate.grid=2",
    "gate.min_mask_miou=0",
    "gate.min_hair_colour=0",
]


def run(*settings: str) -> int:
    return main(["retrain", "--recipe", "demo", *(part for one in [*SMALL, *settings] for part in ("--set", one))])


@pytest.mark.usefixtures("ray_session", "prefect_server")
def test_photographs_to_a_served_champion_then_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    home = Store(tmp_path / "home")
    monkeypatch.setenv("MMFACE_HOME", home.uri)
    port = free_port()
    report = check_first_run(home, port, capsys)
    made = manifests(home)

    assert run(f"serve.port={port}") == 0
    assert manifests(home) == made
    assert len(list_versions()) == 1

    check_generate(home.read(report.replace("report.html", "mask.png")), tmp_path)
    check_nothing_new(port, capsys)
    assert set(manifests(home)) == set(made)
    check_evaluate(tmp_path, capsys)
    check_service_that_refuses(home, port, capsys)
    assert run(f"serve.port={port}", "gate.min_mask_miou=1") == 0
    assert "was rejected" in capsys.readouterr().out
    assert champions() == ["1"]


def check_first_run(home: Store, port: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Every stage is published, version 1 is champion and served; returns the key of the report."""
    assert run(f"serve.port={port}") == 0
    out = capsys.readouterr().out
    assert "version 1 is the champion" in out
    assert f"http://127.0.0.1:{port}/v1/generate/mask" in out
    stages = {json.loads(data)["stage"] for data in manifests(home).values()}
    assert stages == {
        *("portraits", "images", "conditions", "captions", "text", "latents-32", "latents-64"),
        *("train-0-32", "train-1-64", "evalset", "samples", "scores", "bundle"),
    }
    report = next(entry.key for entry in home.list("reports") if entry.key.endswith("report.html"))
    page = home.read(report).decode()
    assert "data:image/jpeg;base64," in page
    assert "curl" in page
    served = Image.open(BytesIO(home.read(report.replace("report.html", "served.png"))))
    assert served.size == (64, 64)
    assert served.info["mmface:model_version"] == "1"
    assert [one.aliases for one in list_versions()] == [("challenger", "champion")]
    assert shown() >= {"stages", "data-quality", "loss", "samples", "gate", "report", "progress-train-1-64"}
    return report


def check_generate(mask: bytes, folder: Path) -> None:
    """The same seed gives the same image twice."""
    drawing, painted = folder / "mask.png", folder / "face.png"
    drawing.write_bytes(mask)
    given = ["generate", "--mask", str(drawing), "--prompt", "red hair", "--seed", "3", "--out", str(painted)]
    assert main(given) == 0
    first = painted.read_bytes()
    assert main(given) == 0
    assert Image.open(BytesIO(first)).tobytes() == Image.open(painted).tobytes()


def check_evaluate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another system that paints the photographs themselves is measured on the same rows as the champion."""
    settings = [part for one in SMALL for part in ("--set", one)]
    capsys.readouterr()
    assert main(["evaluate", *settings, "--rows", str(folder / "rows")]) == 0
    assert "4 rows of " in capsys.readouterr().out
    rows = [json.loads(line) for line in (folder / "rows" / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        painted = folder / "painted" / "mask" / f"{row['id']}.png"
        painted.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (row["seed"] % 256, 90, 60)).save(painted)
    system = f"images:{folder / 'painted'}"
    assert main(["compare", *settings, "champion", system, "--out", str(folder / "report")]) == 0
    out = capsys.readouterr().out
    assert f"## models:/mmface-dit@champion - {system}" in out
    report = json.loads((folder / "report" / "report.json").read_text())
    champion, other = ({one["name"]: one for one in system["figures"]} for system in report["systems"])
    assert champion["mask/miou"]["n"] == other["mask/miou"]["n"] == 4
    assert champion["mask/miou"]["low"] <= champion["mask/miou"]["value"] <= champion["mask/miou"]["high"]
    assert "sketch/miou" in champion
    assert "sketch/miou" not in other
    assert any(one["name"] == "mask/miou" and one["n"] == 4 for one in report["differences"])
    assert "data:image/" in (folder / "report" / "report.html").read_text()
    assert main(["evaluate", *settings, "--images", str(folder / "report")]) == 2
    assert "--images: holds no image" in capsys.readouterr().err


def check_nothing_new(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that starts from the champion ends at once."""
    assert run(f"serve.port={port}", "train.start=models:/mmface-dit@champion") == 0
    reason = "nothing new: version 1 was trained on these photographs with this recipe; champion stays version 1"
    assert capsys.readouterr().out.splitlines()[-1] == reason


def check_service_that_refuses(home: Store, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A version that the service does not confirm does not replace the champion; error and report say so."""
    with refusing_service() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMFACE_SERVE_URL", address)
        assert run(f"serve.port={port}", "gate.min_mask_accuracy=0") == 2  # another bundle of the same training
    reason = "version 2 does not become champion: " + address + " answers 500: broken"
    assert reason in (error := capsys.readouterr().err)
    assert "; champion stays version 1" in error
    assert champions() == ["1"]
    assert any(reason in home.read(entry.key).decode() for entry in home.list("reports") if entry.key.endswith(".html"))


def manifests(home: Store) -> dict[str, bytes]:
    """The manifest of every published dataset by its key."""
    return {entry.key: home.read(entry.key) for entry in home.list("datasets") if entry.key.endswith("manifest.json")}


def champions() -> list[str]:
    return [one.version for one in list_versions() if "champion" in one.aliases]


@contextmanager
def refusing_service() -> Iterator[str]:
    """The address of a service that answers 500 to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(500)
            self.end_headers()
            self.wfile.write(b"broken")

        def log_message(self, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def shown() -> set[str | None]:
    """Keys of the artifacts on the Prefect server that the flow used."""
    with get_client(sync_client=True) as client:
        return {artifact.key for artifact in client.read_artifacts()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
