"""Model sound through spectrograms with Keras.

    audio            read, write, resample and shape recordings (NumPy)
    dsp              transforms as pure functions: short-time Fourier transform, phase recovery
    data             manifests, splits, tf.data pipelines, FSDD, toy sets
    representations  normalised time-frequency features and their inverses, as Keras layers
    layers, losses, quantisers   what Keras lacks
    models           one family a file: encoder, decoder and the trainer that holds them
    codec            a representation, an encoder and a decoder bound into one bundle on disk
    conversion, generation, transfer, streaming   what a codec does with sounds
    training         run folders, exact resume, verdicts
    evaluation       metrics, baselines, comparison, robustness, reports
    study            many fits beside one another
    serving          SavedModel export
    errors, files    exceptions; writing files

Modules are imported on first use, so that the models also load where TensorFlow is absent
(``KERAS_BACKEND=jax``).
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = (
    "audio", "dsp", "data", "representations", "layers", "losses", "quantisers", "models", "codec", "conversion",
    "generation", "transfer", "streaming", "training", "evaluation", "study", "serving", "errors", "files",
)  # fmt: skip
__all__ = [*_MODULES, "Codec"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"spectrovae.{name}")
    if name == "Codec":
        return importlib.import_module("spectrovae.codec").Codec
    raise AttributeError(f"module 'spectrovae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
