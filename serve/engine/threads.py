"""Threads that compute."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


async def in_own_thread(work: Callable[[], Result]) -> Result:
    """Runs ``work`` in a thread that ends with it.

    OpenMP keeps helpers for every thread that has computed. Once there are more of them than processors they sleep
    between two operations instead of waiting awake, and waking them costs a denoising step half of its time again. So
    that only the engine has helpers, nothing else may compute in a thread that stays.
    """
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, work)
    finally:
        pool.shutdown(wait=False)
