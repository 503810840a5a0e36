"""Precision of training, and the float32 copy of a model that is kept."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

from spectrovae.errors import InputError
from spectrovae.models.base import Trainer

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")


def best_precision() -> str:
    """``"mixed_bfloat16"`` where the processor or the GPU multiplies bfloat16 natively, else ``"float32"``."""
    devices = tf.config.list_physical_devices("GPU")
    if devices:
        capability = tf.config.experimental.get_device_details(devices[0]).get("compute_capability", (0, 0))
        return "mixed_bfloat16" if capability >= (8, 0) else "float32"
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text().split()
        if "avx512_bf16" in flags or "amx_bf16" in flags:
            return "mixed_bfloat16"
    return "float32"


@contextlib.contextmanager
def precision(name: str) -> Iterator[str]:
    """Build models under a precision policy; ``"auto"`` is :func:`best_precision`. The policy before comes back after."""
    if name not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, received {name!r}")
    name = best_precision() if name == "auto" else name
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield name
    finally:
        keras.config.set_dtype_policy(before)


def float32_twin(trainer: Trainer) -> Trainer:
    """A trainer of the same configuration that computes in float32, to be filled by :func:`copy_weights`."""
    config = {key: value for key, value in trainer.get_config().items() if key not in ("dtype", "name")}
    with precision("float32"):
        return type(trainer)(**config)


def copy_weights(source: Trainer, target: Trainer) -> None:
    """Copy encoder and decoder weights (kept in float32 under every mixed policy)."""
    for part in ("encoder", "decoder"):
        for there, here in zip(getattr(target, part).weights, getattr(source, part).weights):
            there.assign(here)
