"""Server-sent events: how a request fares, previews, and the result (§9)."""

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
from serve.http.backend import Service
from serve.http.errors import ApiError, error_body, to_api_error
from serve.http.generation import Order, image_data, pictures, response
from serve.http.schemas import ErrorDetail, Generated, GenerateResponse, ImageData, Progress

# Proxies must pass events on as they come.
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
QUIET_S = 9.0  # after which a comment is sent: many proxies and clients give up a connection that says nothing
_COMMENT = ": still at work\n\n"


class Event(BaseModel):
    """An event; its name is its type."""

    type: str


class Queued(Event):
    """The request waits, or is about to begin."""

    type: Literal["queued"] = "queued"
    ahead: int = Field(description="Requests in front of it; 0 when it begins.", examples=[2])


class Step(Event):
    """A denoising step is done."""

    type: Literal["step"] = "step"
    step: int = Field(examples=[3])
    steps: int = Field(examples=[20])


class PartialImage(Event):
    """A preview of every image."""

    type: Literal["partial_image"] = "partial_image"
    partial_image_index: int = Field(description="Of the asked-for previews, from 0.", examples=[0])
    step: int = Field(examples=[5])
    data: list[ImageData]


class Completed(GenerateResponse, Event):
    """The last event: the answer."""

    type: Literal["completed"] = "completed"


class Failed(Event):
    """The last event, if something went wrong after the first one."""

    type: Literal["error"] = "error"
    error: ErrorDetail


EVENTS = (Queued, Step, PartialImage, Completed, Failed)

News = TypeVar("News")
Dialect = Callable[[Progress | Generated, Order], list[Event]]
"""How events are put into words."""


def ours(told: Progress | Generated, order: Order) -> list[Event]:
    """The events of ``/v1/generate/*``."""
    if isinstance(told, Generated):
        return [Completed(**response(told, order).model_dump())]
    if told.images is not None:
        data = image_data(pictures(told.images, order), order)
        return [PartialImage(partial_image_index=told.preview, step=told.step, data=data)]
    if told.step == 0:
        return [Queued(ahead=told.ahead)]
    return [Step(step=told.step, steps=told.steps)]


async def stream(service: Service, order: Order, dialect: Dialect) -> StreamingResponse:
    """Answers with events. What goes wrong before the first one raises, and is an answer of its own.

    Without a first event for :data:`QUIET_S` the answer begins with a comment.
    """
    told = with_pauses(service.backend.stream(order.job), QUIET_S)
    async with order.deadline():
        first = await anext(told)
    return _Events(told, _lines(first, told, order, dialect))


async def with_pauses(told: AsyncIterator[News], quiet_s: float) -> AsyncGenerator[News | None]:
    """What ``told`` yields, and None whenever it has yielded nothing for ``quiet_s``. Closes ``told`` when closed."""
    async with aclosing(told):  # type: ignore[type-var]
        while True:
            news = asyncio.ensure_future(anext(told))
            try:
                while not (await asyncio.wait({news}, timeout=quiet_s))[0]:
                    yield None
                yield news.result()
            except StopAsyncIteration:
                return
            finally:
                if not news.done():
                    news.cancel()
                    with CancelScope(shield=True):  # ``told`` cannot be closed while it runs
                        await asyncio.wait({news})


class _Events(StreamingResponse):
    """Closes the backend's iterator whenever the client leaves, also before the first line is read."""

    def __init__(self, told: AsyncGenerator[Progress | Generated | None], lines: AsyncIterator[str]) -> None:
        super().__init__(lines, media_type="text/event-stream", headers=_HEADERS)
        self.told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.told):
            await super().__call__(scope, receive, send)


async def _lines(
    first: Progress | Generated | None,
    told: AsyncIterator[Progress | Generated | None],
    order: Order,
    dialect: Dialect,
) -> AsyncIterator[str]:
    event = first
    try:
        while True:
            if event is None:
                yield _COMMENT
            else:
                for words in await asyncio.to_thread(dialect, event, order):
                    yield _line(words)
            async with order.deadline():
                event = await anext(told)
    except StopAsyncIteration:
        return
    except (ApiError, MMFaceError) as error:
        yield _failed(to_api_error(error))
    except Exception as error:
        # The status is sent already, so the stream says it; the server's log has the traceback.
        yield _failed(to_api_error(error))
        raise


def _failed(error: ApiError) -> str:
    return _line(Failed(error=error_body(error).error))


def _line(event: Event) -> str:
    return f"event: {event.type}\ndata: {event.model_dump_json()}\n\n"
