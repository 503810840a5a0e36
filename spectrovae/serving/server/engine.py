"""Calls in a bounded pool of threads: TensorFlow computes without Python's lock, and the event loop never waits."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from spectrovae.serving.server.errors import RequestError
from spectrovae.serving.server.manager import Manager, Version, Wanted

Result = TypeVar("Result")


class Engine:
    """Runs what requests ask for.

    Args:
        manager: of the models.
        threads: calls at the same time; as many more may wait.
        timeout: seconds from the request to its result.
    """

    def __init__(self, manager: Manager, threads: int, timeout: float):
        self.manager = manager
        self.answered = self.refused = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="request")
        self._most = 2 * threads
        self._timeout = timeout
        self._pending = 0

    @property
    def busy(self) -> int:
        """Calls that have not ended, those included whose clients have gone."""
        return self._pending

    async def call(self, wanted: Wanted, work: Callable[[Version], Result]) -> Result:
        """Do ``work`` with the version that is wanted, in a thread.

        Raises:
            RequestError: of ``work``; no such version; too many calls; too long.
        """
        try:
            result = await self._call(wanted, work)
        except RequestError:
            self.refused += 1
            raise
        self.answered += 1
        return result

    async def _call(self, wanted: Wanted, work: Callable[[Version], Result]) -> Result:
        if self._pending >= self._most:
            raise RequestError("UNAVAILABLE", f"{self._pending} requests are being answered: try again later")
        version = self.manager.take(wanted)
        self._pending += 1
        future = self._pool.submit(work, version)
        # A call whose client gave up goes on to its end, and its version stays loaded until then.
        done = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, self._ended, version)
        future.add_done_callback(lambda _: done())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._timeout)
        except asyncio.TimeoutError:
            raise RequestError("DEADLINE_EXCEEDED", f"the model took longer than {self._timeout:g} s") from None

    def _ended(self, version: Version) -> None:
        self._pending -= 1
        self.manager.give_back(version)

    def close(self) -> None:
        """Take no more calls; those that run go on."""
        self._pool.shutdown(wait=False, cancel_futures=True)
