"""What ``spectrovae serve`` can be told."""

import dataclasses
import ipaddress
import os
from pathlib import Path
from typing import NamedTuple

from spectrovae.errors import InputError


class Limits(NamedTuple):
    """Limits of the inputs of one request.

    Args:
        max_bytes: of an input, unpacked.
        max_samples: of the sound that an input is or will become.
        unit: samples that each index of an input's free axes stands for: 1 of a waveform, those of a segment of
            latents.
    """

    max_bytes: int
    max_samples: int
    unit: int = 1


@dataclasses.dataclass(frozen=True)
class Options:
    """Where to listen, and the limits of the server.

    Args:
        folder: holds NAME/VERSION/saved_model.pb, and ``models.config`` where there is one.
        host: address to listen at.
        rest_port, grpc_port: 0 for any free one.
        max_bytes: largest request.
        max_samples: samples of sound that a request may stand for, be they sent or to be made.
        read_timeout: seconds that a client has to send the body of a request.
        call_timeout: seconds that a request may take once it is read, waiting included.
        poll: seconds between two looks at the folder.
        batching: whether requests that come together are computed together. By default the stand-in does so, for equal
            shapes, and TensorFlow Serving does not: it fails requests of unequal length that meet in a batch.
        max_batch: waveforms that are computed together at most.
        batch_timeout: seconds that a waveform waits for others though there is a thread free to compute it, where more
            than ``max_batch`` are asked for; TensorFlow Serving waits whatever is asked for.
        batch_threads: batches that are computed at the same time.
        op_threads: cores that one operation of a model may use. Its many small operations lose more by being divided
            than they gain; several cores are used by several batches.
        threads: requests that are handled at the same time; as many more may wait for one of them to end.

    Raises:
        InputError: a value that cannot be, or no such folder.
    """

    folder: Path
    host: str = "127.0.0.1"
    rest_port: int = 8501
    grpc_port: int = 8500
    max_bytes: int = 64 << 20
    max_samples: int = 1 << 22
    read_timeout: float = 10.0
    call_timeout: float = 60.0
    poll: float = 1.0
    batching: bool | None = None
    max_batch: int = 16
    batch_timeout: float = 0.02
    batch_threads: int = os.cpu_count() or 1
    op_threads: int = 1
    threads: int = 64

    @property
    def limits(self) -> Limits:
        """The limits of a request's inputs."""
        return Limits(self.max_bytes, self.max_samples)

    @property
    def loopback(self) -> bool:
        """Whether this machine alone can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __post_init__(self):
        object.__setattr__(self, "folder", Path(self.folder))
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is no folder; serve takes the one that spectrovae export wrote to")
        for name in ("rest_port", "grpc_port"):
            if not 0 <= getattr(self, name) < 65536:
                raise InputError(f"{name} must be 0 (any free one) to 65535, received {getattr(self, name)}")
        positive = (
            "max_bytes", "max_samples", "read_timeout", "call_timeout", "poll", "max_batch", "batch_threads",
            "op_threads", "threads",
        )  # fmt: skip
        for name in positive:
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, received {getattr(self, name)}")
        if not self.host:
            raise InputError("host must be an address to listen at, such as 127.0.0.1")
        if self.batch_timeout < 0:
            raise InputError(f"batch_timeout must be 0 s or more, received {self.batch_timeout}")
