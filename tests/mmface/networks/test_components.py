"""Parsing the name of a component."""

from __future__ import annotations

import pytest

from mmface.networks.places import locate


@pytest.mark.parametrize(
    ("name", "repository", "options"),
    [
        ("owner/name", "owner/name", {}),
        ("name", "name", {}),
        ("owner/name@main", "owner/name", {"revision": "main"}),
        ("owner/name/vae", "owner/name", {"subfolder": "vae"}),
        ("owner/name/deep/vae@v1", "owner/name", {"subfolder": "deep/vae", "revision": "v1"}),
    ],
)
def test_hub_ids_name_a_repository_a_folder_in_it_and_a_revision(name: str, repository: str, options: dict[str, str]):
    assert locate(name) == (repository, options)
