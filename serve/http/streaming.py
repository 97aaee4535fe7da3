"""Server-sent events of a generation: progress, previews and the result (§9)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Literal, TypeVar

from anyio import CancelScope
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from mmface.errors import MMFaceError
from serve.guards.limits import Deadline
from serve.http.backend import Service
from serve.http.errors import ApiError, error_body, to_api_error
from serve.http.generation import generate_response, image_data, image_files
from serve.http.job import Generated, Job, Progress
from serve.http.negotiation import Reply
from serve.http.schemas import ErrorDetail, GenerateResponse, ImageData

# Proxies must not buffer events.
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
QUIET_S = 9.0  # seconds without an event after which a comment is sent: many proxies and clients close idle connections
_COMMENT = ": still at work\n\n"


class Event(BaseModel):
    """An event; ``type`` is also its name."""

    type: str


class Queued(Event):
    """The request is waiting, or about to begin."""

    type: Literal["queued"] = "queued"
    ahead: int = Field(description="Requests ahead of it in the queue; 0 when it begins.", examples=[2])


class Step(Event):
    """A denoising step is done."""

    type: Literal["step"] = "step"
    step: int = Field(examples=[3])
    steps: int = Field(examples=[20])


class PartialImage(Event):
    """A preview of every image."""

    type: Literal["partial_image"] = "partial_image"
    partial_image_index: int = Field(description="Index of the preview, from 0.", examples=[0])
    step: int = Field(examples=[5])
    data: list[ImageData]


class Completed(GenerateResponse, Event):
    """The last event: the answer."""

    type: Literal["completed"] = "completed"


class Failed(Event):
    """The last event, if the request fails after the first event was sent."""

    type: Literal["error"] = "error"
    error: ErrorDetail


EVENTS = (Queued, Step, PartialImage, Completed, Failed)

Item = TypeVar("Item")
Report = Progress | Generated
ToEvents = Callable[[Report, Job, Reply], list[Event]]
"""Turns a report of the replica into the events that a route sends for it."""


def generate_events(report: Report, job: Job, reply: Reply) -> list[Event]:
    """The events of ``/v1/generate/*``."""
    if isinstance(report, Generated):
        return [Completed(**generate_response(report, job, reply).model_dump())]
    if report.images is not None:
        data = image_data(image_files(report.images, job, reply), job)
        return [PartialImage(partial_image_index=report.preview, step=report.step, data=data)]
    if report.step == 0:
        return [Queued(ahead=report.ahead)]
    return [Step(step=report.step, steps=report.steps)]


async def stream(
    service: Service, job: Job, reply: Reply, deadline: Deadline, to_events: ToEvents
) -> StreamingResponse:
    """Answers with events. Errors before the first event are raised, and so answered with a status of their own.

    If there is no event within :data:`QUIET_S`, the answer begins with a comment.
    """
    reports = with_pauses(service.backend.stream(job), QUIET_S)
    async with deadline():
        first = await anext(reports)
    return _Events(reports, _lines(first, reports, deadline, lambda report: to_events(report, job, reply)))


async def with_pauses(items: AsyncIterator[Item], quiet_s: float) -> AsyncGenerator[Item | None]:
    """Yields the items of ``items``, and None whenever there was none for ``quiet_s``. Closes ``items`` when closed."""
    async with aclosing(items):  # type: ignore[type-var]
        while True:
            item = asyncio.ensure_future(anext(items))
            try:
                while not (await asyncio.wait({item}, timeout=quiet_s))[0]:
                    yield None
                yield item.result()
            except StopAsyncIteration:
                return
            finally:
                if not item.done():
                    item.cancel()
                    with CancelScope(shield=True):  # ``items`` cannot be closed while it runs
                        await asyncio.wait({item})


class _Events(StreamingResponse):
    """Closes the backend's iterator whenever the client disconnects, even before the first line is read."""

    def __init__(self, reports: AsyncGenerator[Report | None], lines: AsyncIterator[str]) -> None:
        super().__init__(lines, media_type="text/event-stream", headers=_HEADERS)
        self.reports = reports

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.reports):
            await super().__call__(scope, receive, send)


async def _lines(
    first: Report | None,
    reports: AsyncIterator[Report | None],
    deadline: Deadline,
    to_events: Callable[[Report], list[Event]],
) -> AsyncIterator[str]:
    report = first
    try:
        while True:
            if report is None:
                yield _COMMENT
            else:
                for event in await asyncio.to_thread(to_events, report):
                    yield _line(event)
            async with deadline():
                report = await anext(reports)
    except StopAsyncIteration:
        return
    except (ApiError, MMFaceError) as error:
        yield _failed(to_api_error(error))
    except Exception as error:
        # The status has been sent already, so the error becomes an event; the server's log gets the traceback.
        yield _failed(to_api_error(error))
        raise


def _failed(error: ApiError) -> str:
    return _line(Failed(error=error_body(error).error))


def _line(event: Event) -> str:
    return f"event: {event.type}\ndata: {event.model_dump_json()}\n\n"
