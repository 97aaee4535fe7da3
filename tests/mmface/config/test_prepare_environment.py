"""Environment variables that our processes set for themselves and their children."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmface.config.environment import FOLDERS, prepare_environment, user_folder_problem


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without proxies, with MMFACE_HOME and a writable HOME; restored after the test."""
    proxies = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    names = (*proxies, *(name.upper() for name in proxies), *FOLDERS, "PREFECT_API_URL", "RAY_ADDRESS")
    for name in (*names, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HF_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / "user").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path / "home"))


def test_nothing_is_set_when_nothing_is_missing() -> None:
    before = dict(os.environ)
    prepare_environment()
    assert dict(os.environ) == before


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_loopback_requests_bypass_the_proxy(
    proxy: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(proxy, "http://10.0.0.1:3128")
    monkeypatch.setenv("NO_PROXY", "example.org, localhost")
    with caplog.at_level("INFO", "mmface"):
        prepare_environment()
        prepare_environment()
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "example.org,localhost,127.0.0.1,::1"
    assert caplog.messages == [
        f"{proxy} is set: 127.0.0.1, ::1 added to NO_PROXY for the servers that MMFace runs on this machine"
    ]
    import httpx
    import requests

    for url in ("http://127.0.0.1:1/", "http://localhost:1/", "http://[::1]:1/"):
        with httpx.Client() as client:
            assert client._transport_for_url(httpx.URL(url)) is client._transport  # not a proxy transport
        assert not requests.utils.get_environ_proxies(url)
    assert requests.utils.get_environ_proxies("http://mlflow.example.com/") or proxy == "https_proxy"


def test_a_no_proxy_wildcard_is_kept() -> None:
    os.environ.update({"HTTP_PROXY": "http://10.0.0.1:3128", "NO_PROXY": "*"})
    prepare_environment()
    assert os.environ["NO_PROXY"] == "*"


@pytest.mark.parametrize("user", ["/proc", "/nowhere/at/all"])
def test_an_unwritable_home_is_replaced_by_folders_in_mmface_home(
    user: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", user)
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    with caplog.at_level("INFO", "mmface"):
        prepare_environment()
    place = tmp_path / "home" / "user"
    assert {name: os.environ[name] for name in FOLDERS} == {
        "PREFECT_HOME": f"{place}/prefect",
        "XDG_CONFIG_HOME": f"{place}/config",
        "XDG_CACHE_HOME": f"{place}/cache",
        "TRITON_CACHE_DIR": "/mine",
    }
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["HOME"] == user
    assert f"HOME ({user}) cannot be written" in caplog.text
    assert place.is_dir()
    assert user_folder_problem() is None


def test_an_unwritable_home_with_a_remote_mmface_home_needs_prefect_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/proc")
    monkeypatch.setenv("MMFACE_HOME", "s3://faces/home")
    prepare_environment()
    assert "set PREFECT_HOME to a local folder" in str(user_folder_problem())
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect:4200/api")
    assert user_folder_problem() is None
