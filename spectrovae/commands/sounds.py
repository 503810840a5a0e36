"""Sub-commands of sounds and of the machine: data sets, transforms there and back."""

import os
import re
from pathlib import Path

import spectrovae
from spectrovae.commands.options import build_representation, counter, log, naming, plain
from spectrovae.commands.outputs import check_out, free_path
from spectrovae.errors import InputError, printable


def doctor(options) -> tuple[dict, str]:
    """Say what is installed, what works, and what to do about the rest."""
    import importlib.metadata
    import platform

    import tensorflow as tf

    from spectrovae.data import decode
    from spectrovae.training import best_precision

    packages = ("tensorflow", "keras", "numpy", "librosa", "soundfile", "tensorflow-io", "tensorboard", "matplotlib")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    versions["tensorflow"] = tf.__version__
    keras_version = tuple(map(int, re.findall(r"\d+", versions["keras"])[:3]))
    warnings = []
    if not ((3, 12, 4) <= keras_version < (3, 13) or keras_version >= (3, 14, 1)):  # as in setup.cfg
        warnings.append(
            f"Keras {versions['keras']} has known holes: a crafted model file can run code or read other files; pip "
            "install --upgrade keras"
        )
    result = {
        "spectrovae": spectrovae.__version__,
        "python": platform.python_version(),
        "packages": versions,
        "decoders": decode.available_decoders(),
        "gpus": [device.name for device in tf.config.list_physical_devices("GPU")],
        "cores": os.cpu_count(),
        "precision": best_precision(),
        "warnings": warnings,
    }
    return result, "\n".join(f"{name:12} {plain(value)}" for name, value in result.items())


def data_scan(options) -> tuple[dict, str]:
    """Account for every file of a folder, and show the splits."""
    from spectrovae.data import scan

    if options.out:
        _check_manifest(options)
    manifest = scan(options.data, **naming(options), progress=counter("scanned"))
    splits = {name: len(records) for name, records in manifest.splits(options.split).items()}
    result = manifest.summary() | {"splits": splits, "naming": list(manifest.notes)}
    if options.out:
        manifest.write(options.out)
        result["manifest"] = options.out
    lines = [f"rejected  {path}: {reason}" for path, reason in result.pop("reasons").items()]
    lines += [f"{name:12} {plain(value)}" for name, value in result.items()]
    reasons = {record.path: record.reason for record in manifest.rejected}
    return result | {"reasons": reasons}, "\n".join(map(printable, lines))


def _check_manifest(options) -> None:
    """Refuse to write a manifest over a recording, or over any other file that is no manifest."""
    from spectrovae import audio
    from spectrovae.data import Manifest

    out = Path(options.out)
    if out.suffix.lower() in audio.SUFFIXES:
        raise InputError(
            f"{out} has the name of a recording; choose another name for the manifest, such as {out}.jsonl"
        )
    if free_path(out, force=True).exists():
        try:
            Manifest.read(out)
        except InputError as error:
            raise InputError(f"{out} exists and is no manifest, so it is not replaced; choose another name") from error


def data_fsdd(options) -> tuple[dict, str]:
    """Fetch the Free Spoken Digit Dataset and check it."""
    from spectrovae.data import fsdd

    result = fsdd.download(options.folder, archive=options.archive, progress=counter("bytes"))
    return result, f"{result['folder']}: {result['recordings']} recordings" + ", already there" * result[
        "already_there"
    ]


def transform(options) -> tuple[dict, str]:
    """Look at a sound in a representation, and hear what comes back: its ceiling, before any model."""
    from spectrovae import audio
    from spectrovae.evaluation import ceiling
    from spectrovae.representations import blocks

    header = audio.info(options.file)
    sample_rate = options.sample_rate or header.sample_rate
    samples = audio.resampled_length(header.samples, header.sample_rate, sample_rate)
    representation = build_representation(options, sample_rate, max_db=options.max_db or 0.0)
    check_out(options, ceiling.RESULT)

    def waveform():
        return audio.stream(options.file, sample_rate)

    def pieces():
        return (piece for piece, _ in blocks.pieces(representation, waveform()))

    if options.max_db is None:
        representation = build_representation(options, sample_rate, max_db=representation.peak_db(pieces()))
    blocks.adapt(representation, waveform())
    figures = ceiling.write(representation, waveform, samples, options.out, force=options.force)
    return figures | {"folder": options.out}, f"{options.out}: {plain(figures)}"


def invert(options) -> tuple[dict, str]:
    """Turn features that transform wrote back into sound."""
    from spectrovae.evaluation import ceiling

    folder = Path(options.features).parent
    read = [options.features, folder / ceiling.RESULT, folder / "representation.keras"]
    out = free_path(options.out, options.force, read)
    peak = ceiling.invert(options.features, out)
    if peak > 1.0:
        log(f"{out}: peak {peak:.2f} scaled down to full scale")
    return {"file": str(out), "peak": peak}, str(out)
