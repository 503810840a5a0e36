"""Calls in a bounded pool of threads: TensorFlow computes without Python's lock, and the event loop never waits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
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
        self._pending = self._reading = 0

    @contextlib.asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Count a request from before its body is read: there are never more in memory than may be answered.

        Raises:
            RequestError: too many requests.
        """
        if self._reading >= self._most:
            self.refused += 1
            raise RequestError("UNAVAILABLE", f"{self._reading} requests are being answered: try again later")
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

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
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        late = RequestError("DEADLINE_EXCEEDED", f"the model took longer than {self._timeout:g} s")
        timer = loop.call_later(self._timeout, _settle, answer, None, late)

        def run() -> None:
            result, error = None, None
            try:
                if not answer.done():  # given up while it waited for a thread
                    result = work(version)
            except BaseException as raised:
                error = raised
            loop.call_soon_threadsafe(self._ended, version, answer, result, error)

        self._pool.submit(run)
        try:
            return await answer
        finally:
            timer.cancel()

    def _ended(self, version: Version, answer: asyncio.Future, result, error: BaseException | None) -> None:
        # A call whose client gave up has come to its end only now, and kept its version loaded until now.
        self._pending -= 1
        self.manager.give_back(version)
        _settle(answer, result, error)

    def close(self) -> None:
        """Take no more calls; those that run go on."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _settle(answer: asyncio.Future, result, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
