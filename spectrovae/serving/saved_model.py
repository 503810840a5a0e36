"""A codec as a SavedModel, in the folders that TensorFlow Serving polls.

FOLDER/NAME/1/
  saved_model.pb  variables/          signatures serving_default, features, encode, decode, reconstruct, convert,
                                      generate, describe
  assets.extra/spectrovae.json        sample rate, representation, versions, parity with the Keras model
  assets.extra/tf_serving_warmup_requests   what TF Serving replays when it loads the version
"""

import json
import os
import re
from pathlib import Path

import tensorflow as tf

from spectrovae import files
from spectrovae.codec import Codec, golden_waveforms
from spectrovae.errors import InputError
from spectrovae.serving.deployment import check_target, checked_name
from spectrovae.serving.endpoints import Endpoint, endpoints, examples
from spectrovae.serving.parity import check_parity
from spectrovae.serving.warmup import write_warmup
from spectrovae.serving.weights import StoredWeights, error_db
from spectrovae.streaming import Steps, can_stream

DESCRIPTION = Path("assets.extra") / "spectrovae.json"


def export(
    codec: Codec | str | os.PathLike,
    folder: str | os.PathLike,
    *,
    name: str | None = None,
    version: int | None = None,
    weights: str = "float32",
    force: bool = False,
    check: bool = True,
) -> Path:
    """Write a codec to ``folder/name/version`` as a SavedModel that needs nothing but TensorFlow.

    Its signatures take and return named tensors, float32 (codes int32), any batch of one or more,
    any length of one sample or more:

    - ``serving_default``: ``waveform`` (batch, samples) -> ``waveform`` (batch, samples).
    - ``features``: ``waveform`` -> ``features`` (batch, bins, frames, channels), normalised, of the waveform alone.
    - ``encode``: ``waveform`` -> ``latent`` (batch, segments, ...); ``latent_0``, ``latent_1``, ... where the encoder
      returns a list. The last segment is filled with silence.
    - ``decode``: the same latents -> ``waveform`` (batch, samples), all that the segments span.
    - ``reconstruct``: ``features`` of any number of frames -> ``features``, same shape: what encoder and decoder make
      of them. Frames of silence fill the last segment and are taken off again.
    - ``convert``, where the decoder is told who speaks: ``waveform`` and ``speaker`` int32 (batch,), the index in the
      list ``speakers`` of the description, one past the last for none, and ``guidance`` (batch,), the strength of the
      voice -> ``waveform``, same shape.
    - ``generate``, where there is a prior: ``seed`` int32 (batch,), ``temperature`` (batch,), and ``label`` and
      ``speaker`` int32 (batch,) where the prior was learned with them (places in ``learned_prior.conditions`` of the
      description; one past the last leaves it open) -> ``waveform`` (batch, samples) of one segment. A row depends on
      its own inputs alone.
    - ``stream_encode`` and ``stream_decode``, of a causal rave: a block ``waveform`` (batch, a multiple of ``samples``
      of the description's ``stream``) -> ``latent`` (batch, frames, dimensions), and back; ``encode_state_0``, ... and
      ``decode_state_0``, ... go in and come out with each block, and are zeros with the first. Each is late by
      ``delay`` samples, see :class:`spectrovae.streaming.Steps`.
    - ``describe``: ``request`` (batch,), any strings -> ``description`` (batch,), JSON: ``sample_rate`` in Hz,
      ``segment_samples``, ``representation``, ``labels`` of the recordings, ``versions`` and what else ``codec.json``
      says. TF Serving's REST and its batching refuse a signature without inputs.

    The model appears whole or not at all: it is made in a hidden folder beside ``name``, compared there with the Keras
    model, and only then renamed to its version.

    Args:
        codec: a codec, or the path of a bundle.
        folder: parent of the model's folder; made where it is missing.
        name: of the served model, by default the codec's.
        version: a positive number, by default the one after the highest there.
        weights: how they are stored, ``"float32"``, ``"float16"`` or ``"int8"``, see :class:`StoredWeights`; what a
            smaller kind costs is in the description. The check compares with Keras reading the same stored weights.
        force: replace the version if it exists.
        check: compare with the Keras model in a new process, see :func:`check_parity`.

    Returns:
        The folder of the version.

    Raises:
        InputError: not a bundle, a version that exists, a name or version that cannot be one, a folder that cannot be
            written, or a model with a state of its own, such as a noise generator.
        ParityError: the SavedModel does not give what the Keras model gives; nothing was written.
    """
    source, codec = codec, codec if isinstance(codec, Codec) else Codec.load(codec)
    name = checked_name(codec.name if name is None else name)
    folder = Path(folder)
    home = folder / name
    with files.writing(home):
        version = _next_version(home) if version is None else version
        if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version < 10**18:
            raise InputError(f"version must be a whole number from 1 up, of at most 18 digits, received {version!r}")
        target = home / str(version)
        check_target(target, source, DESCRIPTION, force)
        with files.replacing_folder(target, force=force, beside=home) as stage:
            description = codec.description() | {"name": name, "version": version}
            description |= {"labels": codec.info.get("labels", []), "weights": {"kind": weights}}
            description |= {"speakers": list(codec.speakers)} if codec.speakers else {}
            if can_stream(codec):
                steps = Steps(codec)
                description["stream"] = {"samples": steps.ratio, "delay": steps.delay}
            stored = StoredWeights(codec, weights)
            table = endpoints(codec, stored.read, description)
            save(codec, stage, table, stored)
            golden = golden_waveforms(codec.segment_samples, codec.sample_rate)
            tried = examples(table, golden[:1])
            write_warmup(stage, name, {signature: inputs for signature, (inputs, _) in tried.items()})
            parity = check_parity(stage, codec, table) if check else None
            size = sum(file.stat().st_size for file in stage.rglob("*") if file.is_file())
            figures = {"kind": weights, "megabytes": size / 1e6, "error_db": {}}
            if stored.reduced:
                figures["error_db"] = error_db(table, endpoints(codec), golden)
            files.write_json(stage / DESCRIPTION, description | {"weights": figures, "parity": parity})
    return target


def read_export(path: str | os.PathLike) -> dict:
    """The description of an exported model, without loading it: ``assets.extra/spectrovae.json``.

    Raises:
        InputError: not a folder that :func:`export` wrote.
    """
    try:
        return json.loads((Path(path) / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"no exported model at {path}: expected a folder NAME/VERSION with {DESCRIPTION}") from error


def save(codec: Codec, path: str | os.PathLike, table: list[Endpoint], stored: StoredWeights | None = None) -> None:
    """Write the SavedModel alone: no staging, no check.

    Args:
        stored: the weights that the graphs in ``table`` read; by default the codec's own.

    Raises:
        InputError: the graph uses a variable that is no weight, such as the state of a noise generator.
    """
    signatures = {endpoint.name: endpoint.function.get_concrete_function() for endpoint in table}
    module = tf.Module()
    module.weights = (StoredWeights(codec) if stored is None else stored).variables
    known = {id(variable) for variable in module.weights}
    for name, function in signatures.items():
        state = [variable.name for variable in function.graph.variables if id(variable) not in known]
        if state:
            raise InputError(
                f"{name} of {codec.name} uses state that is no weight ({', '.join(state)}); a served model must give "
                "the same result for the same request: take noise out of encoder and decoder"
            )
    tf.saved_model.save(module, os.fspath(path), signatures=signatures)


def _next_version(home: Path) -> int:
    names = [entry.name for entry in home.iterdir()] if home.exists() else []
    taken = [int(name) for name in names if re.fullmatch("[0-9]{1,18}", name)]
    return 1 + max(taken, default=0)
