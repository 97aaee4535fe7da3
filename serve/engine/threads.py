"""Computing outside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


async def in_own_thread(work: Callable[[], Result]) -> Result:
    """Runs ``work`` in a new thread that ends with it.

    OpenMP keeps worker threads for every thread that has computed. Once there are more of them than processors, they
    sleep between two operations instead of spinning, and waking them makes a denoising step about 1.5 times slower.
    Only the engine's thread should have such workers, so all other computation runs in threads that end.
    """
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, work)
    finally:
        pool.shutdown(wait=False)
