"""What an API process and a replica exchange: a job, and as its answer progress and generated images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve.http.requests import GenerateRequest, Modality


@dataclass(frozen=True)
class Job:
    """A checked request, as an API process hands it to a replica.

    Attributes:
        condition: the client's drawing, ``[H, W]`` uint8 at its own size: label indices of a mask or grey of a sketch.
        request: the fields that the client sent.
        seeds: one for each of the ``request.n`` images.
        version: the model version that the client requires.
        traceparent: the client's own trace, in the format of W3C's ``traceparent`` header.
    """

    modality: Modality
    condition: npt.NDArray[np.uint8]
    request: GenerateRequest
    seeds: tuple[int, ...]
    version: str | None = None
    request_id: str = ""
    traceparent: str | None = None


@dataclass(frozen=True)
class Progress:
    """What a replica reports about a job that is not finished.

    Attributes:
        ahead: generations ahead of it in the queue; 0 once its first image has begun.
        step: denoising steps done; 0 while it waits.
        steps: denoising steps in all.
        images: a preview, ``[n, H, W, 3]`` uint8; None in reports without one.
        preview: index of that preview among the requested ones, from 0.
    """

    ahead: int
    step: int
    steps: int
    images: npt.NDArray[np.uint8] | None = None
    preview: int = 0


@dataclass(frozen=True)
class Generated:
    """The result of a job: ``images`` ``[n, H, W, 3]`` uint8, and the settings they were generated with."""

    images: npt.NDArray[np.uint8]
    seeds: tuple[int, ...]
    model: str
    version: str
    num_inference_steps: int
    guidance_scale: float
    drawing_guidance_scale: float
    guidance_start: float
    guidance_end: float
    sampler: str
    warnings: tuple[str, ...]
