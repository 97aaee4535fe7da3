"""The paintings that are not finished, in the order of their arrival."""

from __future__ import annotations

import threading
from collections import deque

from mmface.errors import ServiceError
from serve.engine.painting import Image, Painting, Pixels

STOPPED = "the engine has stopped, see the replica's log; a new replica replaces this one"


class PaintingQueue:
    """Shared by callers, who add paintings, and the engine's thread, which ends them."""

    def __init__(self) -> None:
        self._paintings: deque[Painting] = deque()  # waiting or begun
        self._changed = threading.Condition()
        self._closed = False
        self._stopped = False

    def __len__(self) -> int:
        return len(self._paintings)

    def paintings(self) -> list[Painting]:
        """A copy, so that callers can add paintings while the engine walks through it."""
        with self._changed:
            return list(self._paintings)

    def images(self) -> list[Image]:
        """The images that have begun and are not finished."""
        return [(painting, image) for painting in self.paintings() for image in sorted(painting.trajectories)]

    def add(self, painting: Painting) -> None:
        """Queues a painting.

        Raises:
            ServiceError: the engine's thread has ended.
        """
        with self._changed:
            if self._stopped:
                raise ServiceError(STOPPED)
            self._paintings.append(painting)
            self._changed.notify()

    def close(self) -> None:
        """Makes :meth:`wait` return False once every painting is finished."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def wait(self) -> bool:
        """Blocks until there is a painting; False if there is none and the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._paintings or self._closed)
            return bool(self._paintings)

    def stop(self) -> None:
        """Refuses new paintings, and ends the queued ones with a ServiceError."""
        with self._changed:
            self._stopped = True
        for painting in self.paintings():
            self.end(painting, ServiceError(STOPPED))

    def end(self, painting: Painting, result: Pixels | BaseException) -> None:
        """Removes a painting and hands its result to the caller."""
        with self._changed:
            self._paintings.remove(painting)
        painting.end(result)
