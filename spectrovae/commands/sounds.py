"""Sub-commands of sounds and of the machine: data sets, transforms there and back."""

import os
from pathlib import Path

import spectrovae
from spectrovae.commands.options import build_representation, counter, free_path, log, plain


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
    result = {
        "spectrovae": spectrovae.__version__,
        "python": platform.python_version(),
        "packages": versions,
        "decoders": decode.available_decoders(),
        "gpus": [device.name for device in tf.config.list_physical_devices("GPU")],
        "cores": os.cpu_count(),
        "precision": best_precision(),
    }
    return result, "\n".join(f"{name:12} {plain(value)}" for name, value in result.items())


def data_scan(options) -> tuple[dict, str]:
    """Account for every file of a folder, and show the splits."""
    from spectrovae.data import scan

    manifest = scan(options.data, pattern=options.pattern, progress=counter("scanned"))
    splits = {name: len(records) for name, records in manifest.splits(options.split).items()}
    result = manifest.summary() | {"splits": splits}
    if options.out:
        manifest.write(options.out)
        result["manifest"] = options.out
    lines = [f"rejected  {path}: {reason}" for path, reason in result.pop("reasons").items()]
    lines += [f"{name:12} {plain(value)}" for name, value in result.items()]
    return result | {"reasons": {record.path: record.reason for record in manifest.rejected}}, "\n".join(lines)


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
    from spectrovae.evaluation import ceiling, report
    from spectrovae.representations import blocks

    header = audio.info(options.file)
    sample_rate = options.sample_rate or header.sample_rate
    samples = audio.resampled_length(header.samples, header.sample_rate, sample_rate)
    representation = build_representation(options, sample_rate, max_db=options.max_db or 0.0)
    report.check_output(options.out, force=options.force, mark=ceiling.RESULT)

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

    out = free_path(Path(options.out), options.force)
    peak = ceiling.invert(options.features, out)
    if peak > 1.0:
        log(f"{out}: peak {peak:.2f} scaled down to full scale")
    return {"file": str(out), "peak": peak}, str(out)
