"""Requests that come together are computed together, by TensorFlow's Batch op.

``tf.nondifferentiable_batch_function`` would give every function its own pool of threads, which stays when the function
is gone. The op below it, ``tf.raw_ops.BatchFunction``, shares one pool between queues that have names; here a queue is
lent to one signature and one shape of waveform at a time, so that only equal shapes are joined, and a server that has
seen any number of lengths and versions holds no more than :data:`QUEUES` of them.
"""

import contextlib
import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator

import tensorflow as tf

QUEUES = 16
_POOL = "spectrovae"


@dataclasses.dataclass(frozen=True)
class Batching:
    """Settings of the pool. One process has one pool, which keeps the settings of its first call.

    Args:
        max_batch: rows of a batch at most.
        timeout: seconds that rows wait for others though a thread is free, where more than ``max_batch`` calls are in
            flight: the first of many answered clients to come back is not computed alone. Otherwise a batch is what
            has come while the threads were busy.
        threads: batches that are computed at the same time.
    """

    max_batch: int = 16
    timeout: float = 0.02
    threads: int = 2

    def run(self, queue: str, users: int, function, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """Compute a function of tensors with a common first axis together with other calls on the same queue.

        Args:
            queue, users: as ``Queues.lend`` gives them.
        """
        # A queue keeps the timeout of its first call, so those who wait have one of their own.
        queue, timeout = (f"{queue}-patient", self.timeout) if users > self.max_batch else (queue, 0.0)
        return tf.raw_ops.BatchFunction(
            in_tensors=inputs, captured_tensors=function.captured_inputs, f=function,
            Tout=[output.dtype for output in function.outputs], num_batch_threads=self.threads,
            max_batch_size=self.max_batch, batch_timeout_micros=round(1e6 * timeout), max_enqueued_batches=1000,
            shared_name=_POOL, batching_queue=queue,
        )  # fmt: skip


class Queues:
    """Names of queues, each lent to one key at a time; what is not in use goes to the next key, the oldest first.

    Args:
        count: of queues.
        alone: calls that may run at the same time without a queue, each on a core of its own.
    """

    def __init__(self, count: int = QUEUES, alone: int = 0):
        self._free = [f"queue-{index}" for index in range(count)]
        self._lent: OrderedDict[Hashable, list] = OrderedDict()  # key: [name, users]
        self._alone = alone
        self._users = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def lend(self, key: Hashable) -> Iterator[tuple[str | None, int]]:
        """The queue of ``key``, None where there is nobody to wait for or no queue left; and the calls in flight."""
        with self._lock:
            entry = self._entry(key) if self._users >= self._alone else None
            self._users += 1
            users = self._users
            if entry is not None:
                entry[1] += 1
        try:
            yield (entry[0] if entry else None), users
        finally:
            with self._lock:
                self._users -= 1
                if entry is not None:
                    entry[1] -= 1

    def _entry(self, key: Hashable) -> list | None:
        if key not in self._lent:
            name = self._take()
            if name is None:
                return None
            self._lent[key] = [name, 0]
        self._lent.move_to_end(key)
        return self._lent[key]

    def _take(self) -> str | None:
        if self._free:
            return self._free.pop()
        idle = next((key for key, (_, users) in self._lent.items() if not users), None)
        return None if idle is None else self._lent.pop(idle)[0]
