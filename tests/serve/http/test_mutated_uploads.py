"""2,000 mutated files over HTTP: each is answered or refused."""

from __future__ import annotations

from collections import Counter

import pytest
from starlette.testclient import TestClient

from tests.mutants import mutants

# Routes and the name of their file field. The files go to them in turn, most to the routes that answer fastest.
ROUTES = (
    *(("/v1/generate/mask", "condition"),) * 10,
    *(("/v1/conditions/mask", "image"),) * 4,
    *(("/v1/generate/sketch", "condition"), ("/v1/images/edits", "image"), ("/v1/conditions/sketch", "image")),
)
FIELDS = {"prompt": "a face", "num_inference_steps": "1", "size": "32"}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns about metadata that it repairs
def test_2000_mutated_files_are_answered_or_refused(client: TestClient) -> None:
    statuses: Counter[int] = Counter()
    for number, (what, data) in enumerate(mutants(2000)):
        route, name = ROUTES[number % len(ROUTES)]
        fields = {} if "conditions" in route else FIELDS
        answer = client.post(route, files={name: ("d.png", data)}, data=fields)
        # 422: a picture that is not a mask.
        allowed = (200, 400, 422) if route == "/v1/generate/mask" else (200, 400)
        assert answer.status_code in allowed, (what, route, answer.status_code, answer.text)
        statuses[answer.status_code] += 1
        if answer.status_code != 200:
            assert answer.json()["error"]["message"], what
    assert min(statuses[200], statuses[400], statuses[422]) > 300, statuses
