"""What each sub-command of ``spectrovae`` does with its parsed options.

Every command returns what ``--json`` prints, and the text for a person. Work belongs on the floors below; modules are
imported where they are used, so that ``spectrovae --help`` is quick.
"""

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import spectrovae
from spectrovae.errors import InputError

REPRESENTATION_OPTIONS = (
    "n_fft", "hop_length", "phase_search", "n_mels", "power", "phase", "frame_length", "window", "companding",
    "content", "scale",
)  # fmt: skip
MODEL_OPTIONS = (
    "latent_dim", "network", "hidden", "head", "linear", "latent_norm", "time_stretch", "time_shift", "bin_stretch",
    "likelihood", "sigma", "alpha", "beta", "warmup", "warmup_epochs", "free_bits", "groups", "balancing",
    "skips", "skip_noise",
    "quantiser", "codebook_size", "code_dim", "stages", "normalise", "gradient", "commitment", "commitment_weight",
    "diversity_weight", "restart", "kmeans_steps", "levels",
)  # fmt: skip


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
    return result, "\n".join(f"{name:12} {_plain(value)}" for name, value in result.items())


def data_scan(options) -> tuple[dict, str]:
    """Account for every file of a folder, and show the splits."""
    from spectrovae.data import scan

    manifest = scan(options.data, pattern=options.pattern, progress=_counter("scanned"))
    splits = {name: len(records) for name, records in manifest.splits(options.split).items()}
    result = manifest.summary() | {"splits": splits}
    if options.out:
        manifest.write(options.out)
        result["manifest"] = options.out
    lines = [f"rejected  {path}: {reason}" for path, reason in result.pop("reasons").items()]
    lines += [f"{name:12} {_plain(value)}" for name, value in result.items()]
    return result | {"reasons": {record.path: record.reason for record in manifest.rejected}}, "\n".join(lines)


def data_fsdd(options) -> tuple[dict, str]:
    """Fetch the Free Spoken Digit Dataset and check it."""
    from spectrovae.data import fsdd

    result = fsdd.download(options.folder, archive=options.archive, progress=_counter("bytes"))
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
    representation = _build_representation(options, sample_rate, max_db=options.max_db or 0.0)
    report.check_output(options.out, force=options.force, mark=ceiling.RESULT)

    def waveform():
        return audio.stream(options.file, sample_rate)

    def pieces():
        return (piece for piece, _ in blocks.pieces(representation, waveform()))

    if options.max_db is None:
        representation = _build_representation(options, sample_rate, max_db=representation.peak_db(pieces()))
    representation.adapt(pieces())
    figures = ceiling.write(representation, waveform, samples, options.out, force=options.force)
    return figures | {"folder": options.out}, f"{options.out}: {_plain(figures)}"


def invert(options) -> tuple[dict, str]:
    """Turn features that transform wrote back into sound."""
    from spectrovae.evaluation import ceiling

    out = _free(Path(options.out), options.force)
    peak = ceiling.invert(options.features, out)
    if peak > 1.0:
        _log(f"{out}: peak {peak:.2f} scaled down to full scale")
    return {"file": str(out), "peak": peak}, str(out)


def fit(options) -> tuple[dict, str]:
    """Train a model; the same command again continues where it was stopped."""
    from spectrovae import training

    if options.config:
        codec = training.repeat(options.config, options.out, resume=options.resume, force=options.force)
    else:
        for name in ("family", "data"):
            if getattr(options, name) is None:
                raise InputError(
                    f"fit needs {'FAMILY' if name == 'family' else '--data'}, or --config FILE of a run to repeat"
                )
        recordings = _recordings(options)
        codec = training.fit(
            options.family,
            recordings,
            _representation(options, recordings),
            options.out,
            _fit_options(options),
            resume=options.resume,
            force=options.force,
            **_model_options(options),
        )
    return codec.info | {"bundle": options.out}, f"{options.out}: {_plain(codec.info['metrics'])}"


def fit_judge(options) -> tuple[dict, str]:
    """Train a classifier of labels or speakers, for compare to play reconstructions to."""
    from spectrovae import training
    from spectrovae.data import Recordings

    recordings = Recordings.open(
        options.data, split=options.split_rule, pattern=options.pattern, progress=_counter("scanned")
    )
    judge = training.fit_judge(
        options.target, recordings, options.out, epochs=options.epochs, seed=options.seed, force=options.force
    )
    return judge.info | {"judge": options.out}, f"{options.out}: {_plain(judge.info['accuracy'])}"


def reconstruct(options) -> tuple[dict, str]:
    """Send audio files through a model; files at another rate are resampled, channels mixed down."""
    from spectrovae import audio

    codec = _codec(options.bundle)
    written = []
    for file in options.files:
        waveform, _ = audio.read(file, codec.sample_rate)
        out = _free(Path(options.out) / f"{Path(file).stem}.wav", options.force)
        audio.write(out, _unclipped(codec.reconstruct(waveform[None])[0], out), codec.sample_rate)
        written.append(str(out))
    return {"files": written}, "\n".join(written)


def generate(options) -> tuple[dict, str]:
    """Draw new sounds from a model's prior."""
    from spectrovae import audio

    codec = _codec(options.bundle)
    outs = [_free(Path(options.out) / f"{codec.name}-{index:04}.wav", options.force) for index in range(options.n)]
    for out, sound in zip(outs, codec.generate(options.n, temperature=options.temperature, seed=options.seed)):
        audio.write(out, _unclipped(sound, out), codec.sample_rate)
    return {"files": [str(out) for out in outs]}, "\n".join(map(str, outs))


def interpolate(options) -> tuple[dict, str]:
    """Sounds between two recordings, on the straight line between their latents."""
    from spectrovae import audio

    codec = _codec(options.bundle)
    outs = [_free(Path(options.out) / f"{index:02}.wav", options.force) for index in range(options.n)]
    first, second = (audio.read(file, codec.sample_rate)[0] for file in (options.first, options.second))
    for out, sound in zip(outs, codec.interpolate(first, second, options.n)):
        audio.write(out, _unclipped(sound, out), codec.sample_rate)
    return {"files": [str(out) for out in outs]}, "\n".join(map(str, outs))


def verify(options) -> tuple[dict, str]:
    """Replay a bundle's golden vectors in a process that did not make them."""
    from spectrovae.codec import Codec

    differences = Codec.load(options.bundle).verify(options.bundle)
    return {"differences": differences}, f"{options.bundle}: as saved, relative differences {_plain(differences)}"


def diagnose(options) -> tuple[dict, str]:
    """Say what a model's latent carries, and what is wrong with it."""
    from spectrovae.data import Recordings
    from spectrovae.training import examine

    codec = _codec(options.bundle)
    recordings = Recordings.open(
        options.data, sample_rate=codec.sample_rate, samples=codec.segment_samples, split=options.split_rule,
        progress=_counter("scanned"),
    )  # fmt: skip
    report = examine.examine_bundle(Path(options.bundle), recordings, codec, options.split)
    return examine.plain(report), examine.report_text(report)


def disentangle(options) -> tuple[dict, str]:
    """Measure whether a latent's dimensions are a toy set's factors, beside an untrained encoder and chance."""
    from spectrovae import files
    from spectrovae.data import Recordings
    from spectrovae.evaluation import factors

    codec = _codec(options.bundle)
    out = _free(Path(options.out), options.force) if options.out else None
    recordings = Recordings.open(options.data, sample_rate=codec.sample_rate, samples=codec.segment_samples)
    result = factors.disentangle(codec, recordings, split=options.split, seeds=options.seeds, log=_log)
    if out:
        files.write_json(out, result)
    return result, factors.format_disentanglement(result)


def compare(options) -> tuple[dict, str]:
    """Models beside baselines and beside the representation's own ceiling."""
    from spectrovae import evaluation
    from spectrovae.evaluation.judges import Judge

    judges = [Judge.load(path) for path in options.judge]
    extra = {"samples": options.samples, "resamples": options.resamples, "judges": judges}
    return _evaluation(options, evaluation.compare, evaluation.format_comparison, extra)


def robustness(options) -> tuple[dict, str]:
    """Perturb spectrograms in dB and measure what the models make of them."""
    from spectrovae import evaluation

    extra = {"perturbations": options.perturbation} | {
        name: getattr(options, name) for name in ("seeds", "steps", "samples")
    }
    return _evaluation(options, evaluation.robustness, evaluation.format_robustness, extra)


def latent(options) -> tuple[dict, str]:
    """Study a model's latent: principal axes, traversals, draws, loss by factor, interpolation, disentanglement."""
    from spectrovae.evaluation import latent as study_of_latent

    options.bundles = [options.bundle]
    (codec,), recordings = _codecs_and_recordings(options)
    result = study_of_latent.latent(
        codec, recordings, options.out, split=options.split, limit=options.limit, dimensions=options.dimensions,
        span=options.span, points=options.points, pairs=options.pairs, seed=options.seed, force=options.force, log=_log,
    )  # fmt: skip
    page = Path(options.out) / "report.html"
    return result | {"report": str(page)}, f"{study_of_latent.format_latent(result)}\n\n{page}"


def listen(options) -> tuple[dict, str]:
    """Write a blind listening test, A/B/X, of originals and what models make of them."""
    from spectrovae.evaluation import listen as listening

    codecs, recordings = _codecs_and_recordings(options)
    result = listening.listen(
        codecs, recordings, options.out, split=options.split, clips=options.clips, trials=options.trials,
        ceiling=options.ceiling, seed=options.seed, force=options.force, log=_log,
    )  # fmt: skip
    page = Path(options.out) / "listen.html"
    return result | {"page": str(page)}, str(page)


def study(options) -> tuple[dict, str]:
    """Fit several families, or one with several values of an option, on several seeds: one table, one picture."""
    import copy

    from spectrovae import models, study, training

    for family in options.families:
        if family not in models.FAMILIES:
            raise InputError(f"family must be one of {', '.join(models.FAMILIES)}, received {family!r}")
    name, _, values = (options.vary or "").partition("=")
    name = name.replace("-", "_")
    if options.vary and (len(options.families) > 1 or not values):
        raise InputError(f"--vary takes NAME=A,B,... and one family, received {options.vary!r}, {options.families}")
    known = {"preset", "representation", "normalisation", "max_db", "dynamic_range"} | {
        *MODEL_OPTIONS, *REPRESENTATION_OPTIONS, "epochs", "batch_size", "learning_rate", "patience", "precision",
        "corrupt",
    }  # fmt: skip
    if options.vary and name not in known:
        raise InputError(f"--vary takes one of {', '.join(sorted(known))}, received {name!r}")
    recordings = _recordings(options)
    trials = []
    for family in options.families:
        for text in values.split(",") if values else [""]:
            own = copy.copy(options)
            own.family = family
            if text:
                setattr(own, name, options.option(name, text))
            model_options, representation = _model_options(own), _representation(own, recordings)
            for seed in options.seeds:
                own.seed = seed
                trials.append(study.Trial(
                    f"{family} {name}={text}" if text else family, family, seed,
                    functools.partial(
                        training.fit, family, recordings, representation, options=_fit_options(own), **model_options
                    ),
                ))  # fmt: skip
    result = study.study(trials, recordings, options.out, split=options.measure, log=_log)
    page = Path(options.out) / "report.html"
    return result | {"report": str(page)}, f"{study.format_study(result)}\n\n{page}"


def export(options) -> tuple[dict, str]:
    """Write a SavedModel and prove it equal in a process without Keras; or encoder and decoder for another runtime."""
    from spectrovae import serving

    if options.target != "saved_model":
        return _export_parts(options)
    result = serving.export(
        options.bundle, options.folder, name=options.name, version=options.version, weights=options.weights,
        force=options.force,
    )  # fmt: skip
    written = serving.read_export(result)
    parity, weights = written["parity"], written["weights"]
    lines = [str(result), serving.format_parity(parity), f"{weights['kind']} weights, {weights['megabytes']:.2f} MB"]
    if weights["error_db"]:
        errors = ", ".join(f"{name} {error:.0f} dB" for name, error in weights["error_db"].items())
        lines[-1] += f"; RMS error against float32 weights: {errors}"
    return {"path": str(result), "parity": parity, "weights": weights}, "\n".join(lines)


def _export_parts(options) -> tuple[dict, str]:
    from spectrovae import serving

    if options.version is not None or options.weights != "float32":
        raise InputError(f"--version and --weights are for a SavedModel; leave them out with --target {options.target}")
    path = serving.export_parts(options.bundle, options.folder, options.target, name=options.name, force=options.force)
    parity = json.loads((path / "spectrovae.json").read_text(encoding="utf-8"))["parity"]
    figures = ", ".join(f"{part} {difference:.0f} dB" for part, difference in parity.items())
    return {"path": str(path), "parity": parity}, (
        f"{path}\nlargest difference from the Keras model: {figures}\n"
        "encoder and decoder alone: features go in and come out. Waveform to features and back stays with the caller, "
        "by the settings in spectrovae.json"
    )


def deploy(options) -> tuple[dict, str]:
    """Write what TF Serving's official image needs to serve exported models: its configuration, Compose, Kubernetes."""
    from spectrovae.serving import deployment

    labels = deployment.parse_labels(options.label, options.folder)
    paths = deployment.deploy(
        options.folder, labels=labels, batching=options.batching, image=options.image, force=options.force
    )
    how = deployment.how_to_try(options.folder)
    return {"files": [str(path) for path in paths], "try": how.splitlines()}, "\n".join([*map(str, paths), "", how])


def serve(options) -> tuple[dict, str]:
    """Answer requests to exported models, as TensorFlow Serving does: by REST and by gRPC."""
    import dataclasses

    from spectrovae.serving.server import launch
    from spectrovae.serving.server.options import Options

    settings = Options(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Options)})
    result = launch.serve(settings, stand_in=options.stand_in)
    return result, f"{result['answered']} requests answered, {result['refused']} refused"


def call(options) -> tuple[dict, str]:
    """Send audio files through a served model; without files, print what the model says of itself."""
    import numpy as np

    from spectrovae import audio
    from spectrovae.serving.client import Client

    if options.files and options.out is None:
        raise InputError("call needs --out FOLDER for the sounds that come back")
    with Client(options.url, timeout=options.timeout, retries=options.retries, chunk=options.chunk) as client:
        if not options.files:
            return client.description, json.dumps(client.description, indent=2)
        written = []
        for file in options.files:
            out = _free(Path(options.out) / f"{Path(file).stem}.wav", options.force)
            sound = np.concatenate(list(client.stream(audio.stream(file, client.sample_rate))))
            audio.write(out, _unclipped(sound, out), client.sample_rate)
            written.append(str(out))
    return {"files": written}, "\n".join(written)


def _codecs_and_recordings(options) -> tuple[list, Any]:
    """The bundles that the options name, of one rate and length, and the recordings opened for them."""
    from spectrovae.data import Recordings

    codecs = [_codec(bundle) for bundle in options.bundles]
    first = codecs[0]
    for codec in codecs[1:]:
        if (codec.sample_rate, codec.segment_samples) != (first.sample_rate, first.segment_samples):
            raise InputError(
                f"{codec.name} takes {codec.segment_samples} samples at {codec.sample_rate} Hz, {first.name} "
                f"{first.segment_samples} at {first.sample_rate} Hz; compare models of the same rate and length"
            )
    recordings = Recordings.open(
        options.data, sample_rate=first.sample_rate, samples=first.segment_samples, split=options.split_rule,
        cache_bytes=0, progress=_counter("scanned"),  # each split is gone through a few times, and never held
    )  # fmt: skip
    return codecs, recordings


def _evaluation(options, measure: Callable, table: Callable, extra: dict) -> tuple[dict, str]:
    codecs, recordings = _codecs_and_recordings(options)
    result = measure(
        codecs, recordings, options.out, split=options.split, limit=options.limit, seed=options.seed,
        force=options.force, log=_log, **extra,
    )  # fmt: skip
    page = Path(options.out) / "report.html"
    return result | {"report": str(page)}, f"{table(result)}\n\n{page}"


def _recordings(options):
    from spectrovae.data import Recordings

    return Recordings.open(
        options.data, sample_rate=options.sample_rate, duration=options.duration, long=options.long,
        overlap=options.overlap, split=options.split_rule, pattern=options.pattern, progress=_counter("scanned"),
    )  # fmt: skip


def _fit_options(options):
    import dataclasses

    from spectrovae.training import FitOptions

    return FitOptions(**{field.name: getattr(options, field.name) for field in dataclasses.fields(FitOptions)})


def _model_options(options) -> dict[str, Any]:
    """The options of the family; one that it does not have is refused."""
    import inspect

    from spectrovae import models

    own: dict[str, Any] = {"preset": options.preset}
    taken = {name for cls in models.FAMILIES[options.family].__mro__ for name in inspect.signature(cls).parameters}
    if "warmup_steps" in taken:
        taken.add("warmup_epochs")  # training.fit counts the steps
    for name in MODEL_OPTIONS:
        if getattr(options, name) is not None:
            if name not in taken:
                raise InputError(f"--{name.replace('_', '-')} is no option of {options.family}")
            own[name] = getattr(options, name)
    return own


def _build_representation(options, sample_rate: int, **given):
    """The representation that the options name; an option that it does not have is refused."""
    import inspect

    from spectrovae import representations

    if options.representation not in representations.REPRESENTATIONS:
        names = ", ".join(representations.REPRESENTATIONS)
        raise InputError(f"--representation must be one of {names}, received {options.representation!r}")
    cls = representations.REPRESENTATIONS[options.representation]
    own = {"dynamic_range": options.dynamic_range, "normalisation": options.normalisation, **given}
    for name in REPRESENTATION_OPTIONS:
        if getattr(options, name) is not None:
            if name not in inspect.signature(cls).parameters:
                raise InputError(f"--{name.replace('_', '-')} is no option of {options.representation}")
            own[name] = getattr(options, name)
    return cls(sample_rate, **own)


def _representation(options, recordings):
    if options.max_db is not None:
        return _build_representation(options, recordings.sample_rate, max_db=options.max_db)
    representation = _build_representation(options, recordings.sample_rate)
    peak = round(representation.peak_db(recordings.waveforms("train")), 2)
    _log(f"the training split peaks at {peak:g} dB: the range is [{peak - options.dynamic_range:g}, {peak:g}] dB")
    return _build_representation(options, recordings.sample_rate, max_db=peak)


def _codec(path: str):
    from spectrovae.codec import Codec

    return Codec.load(path)


def _free(path: Path, force: bool) -> Path:
    if path.exists() and not force:
        raise InputError(f"{path} exists; choose another folder or --force to replace it")
    return path


def _unclipped(waveform, path):
    """Scale down what exceeds full scale, and say so, instead of clipping it."""
    peak = float(abs(waveform).max(initial=0.0))
    if peak > 1.0:
        _log(f"{path}: peak {peak:.2f} scaled down to full scale")
        return waveform / peak
    return waveform


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _counter(verb: str) -> Callable[[int, int], None] | None:
    """A progress callback that rewrites one line of a terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        print(f"\r{verb} {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
