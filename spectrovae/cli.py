"""The command ``spectrovae``: a thin sub-command for each capability.

Exit codes: 0 done, 1 failed, 2 wrong use or wrong input, 130 interrupted. Progress goes to standard error, results to
standard output, as JSON with ``--json``.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import spectrovae
from spectrovae.errors import InputError, ParityError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    options = _parser().parse_args(arguments)
    try:
        result, text = options.run(options)
    except (InputError, ParityError) as error:
        print(f"spectrovae: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("spectrovae: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    print(json.dumps(result, indent=2, default=str) if options.json else text)
    return 0


# Every command returns what --json prints, and the text for a person.


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
        model_options: dict[str, Any] = {"preset": options.preset}
        for name in ("latent_dim", "likelihood", "alpha", "beta", "warmup_epochs"):
            if getattr(options, name) is not None:
                if options.family != "vae":
                    raise InputError(f"--{name.replace('_', '-')} is of the vae, not of {options.family}")
                model_options[name] = getattr(options, name)
        codec = training.fit(
            options.family,
            recordings,
            _representation(options, recordings),
            options.out,
            training.FitOptions(
                epochs=options.epochs,
                batch_size=options.batch_size,
                learning_rate=options.learning_rate,
                patience=options.patience,
                seed=options.seed,
                precision=options.precision,
            ),
            resume=options.resume,
            force=options.force,
            **model_options,
        )
    return codec.info | {"bundle": options.out}, f"{options.out}: {_plain(codec.info['metrics'])}"


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


def compare(options) -> tuple[dict, str]:
    """Models beside baselines and beside the representation's own ceiling."""
    from spectrovae import evaluation

    return _evaluation(options, evaluation.compare, evaluation.format_comparison, {"samples": options.samples})


def robustness(options) -> tuple[dict, str]:
    """Perturb spectrograms in dB and measure what the models make of them."""
    from spectrovae import evaluation

    extra = {"levels": options.levels, "marked": options.marked, "seeds": options.seeds}
    return _evaluation(options, evaluation.robustness, evaluation.format_robustness, extra)


def export(options) -> tuple[dict, str]:
    """Write a SavedModel and prove it equal in a process without Keras."""
    from spectrovae import serving

    result = serving.export(
        options.bundle, options.folder, name=options.name, version=options.version, force=options.force
    )
    parity = serving.read_export(result)["parity"]
    text = ", ".join(f"{name} {figures['db']:.0f} dB" for name, figures in parity.items())
    return {"path": str(result), "parity": parity}, f"{result}\nlargest difference from the Keras model: {text}"


def _evaluation(options, measure: Callable, table: Callable, extra: dict) -> tuple[dict, str]:
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
        progress=_counter("scanned"),
    )  # fmt: skip
    result = measure(
        codecs, recordings, options.out, split=options.split, limit=options.limit, seed=options.seed,
        force=options.force, log=_log, **extra,
    )  # fmt: skip
    page = Path(options.out) / "report.html"
    return result | {"report": str(page)}, f"{table(result)}\n\n{page}"


def _recordings(options):
    from spectrovae.data import Recordings

    return Recordings.open(
        options.data, sample_rate=options.sample_rate, duration=options.duration, split=options.split_rule,
        pattern=options.pattern, progress=_counter("scanned"),
    )  # fmt: skip


def _representation(options, recordings):
    from spectrovae import representations

    cls = representations.REPRESENTATIONS[options.representation]

    def build(max_db: float):
        return cls(
            recordings.sample_rate, n_fft=options.n_fft, hop_length=options.hop_length, max_db=max_db,
            dynamic_range=options.dynamic_range, normalisation=options.normalisation,
        )  # fmt: skip

    if options.max_db is not None:
        return build(options.max_db)
    peak = round(build(0.0).peak_db(recordings.waveforms("train")), 2)
    _log(f"the training split peaks at {peak:g} dB: the range is [{peak - options.dynamic_range:g}, {peak:g}] dB")
    return build(peak)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spectrovae", description="Model sound through spectrograms with Keras.")
    parser.add_argument("--version", action="version", version=f"spectrovae {spectrovae.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable, parent=commands) -> argparse.ArgumentParser:
        sub = parent.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        sub.set_defaults(run=run)
        return sub

    def data_options(sub: argparse.ArgumentParser, required: bool = True) -> None:
        sub.add_argument("--data", required=required, help="folder, manifest, or toy set such as toy:harmonic")

    def split_rule(sub: argparse.ArgumentParser, flag: str) -> None:
        rules = ("auto", "hash", "speaker", "fsdd")
        sub.add_argument(flag, dest="split_rule", default="auto", choices=rules, help="how recordings are split")

    command("doctor", doctor)

    data = commands.add_parser("data", help="recordings: scan, fetch").add_subparsers(required=True, metavar="COMMAND")
    sub = command("scan", data_scan, data)
    sub.add_argument("data", metavar="DATA", help="folder of wav, flac, ogg and mp3 files")
    sub.add_argument("--out", help="write the manifest (JSON lines) here")
    sub.add_argument("--pattern", help="regular expression with groups label, speaker, index for the file names")
    sub.add_argument("--split", default="auto", choices=("auto", "hash", "speaker", "fsdd"), help="split rule to show")
    sub = command("fsdd", data_fsdd, data)
    sub.add_argument("folder", nargs="?", default="fsdd", help="where to put it")
    sub.add_argument("--archive", help="the zip archive, fetched by other means")

    sub = command("fit", fit)
    sub.add_argument("family", nargs="?", choices=("vae", "unet"))
    data_options(sub, required=False)
    sub.add_argument("--out", required=True, help="folder of the bundle")
    sub.add_argument("--config", help="run/config.json of a run to repeat, in place of the other options")
    sub.add_argument("--sample-rate", type=int, help="Hz; the recordings' most common by default")
    sub.add_argument("--duration", type=float, help="seconds of an example")
    sub.add_argument("--pattern", help="regular expression with groups label, speaker, index for the file names")
    split_rule(sub, "--split")
    sub.add_argument("--representation", default="log-stft", choices=("log-stft",))
    sub.add_argument("--n-fft", type=int, help="samples of a window; the power of two within 64 ms by default")
    sub.add_argument("--hop-length", type=int, help="samples between frames; a quarter window by default")
    sub.add_argument("--normalisation", default="range", choices=("range", "per_bin", "per_example"))
    sub.add_argument("--max-db", type=float, help="top of the range in dB; the training split's peak by default")
    sub.add_argument("--dynamic-range", type=float, default=80.0, help="dB below the top at which levels are floored")
    sub.add_argument("--preset", default="small", choices=("tiny", "small", "base"))
    sub.add_argument("--latent-dim", type=int)
    sub.add_argument("--likelihood", choices=("sigma", "alpha_rmse", "alpha_mse"))
    sub.add_argument("--alpha", type=float, help="reconstruction weight of the alpha likelihoods")
    sub.add_argument("--beta", type=float, help="weight of the KL divergence")
    sub.add_argument("--warmup-epochs", type=float, help="epochs over which beta grows from 0")
    sub.add_argument("--epochs", type=int, default=30)
    sub.add_argument("--batch-size", type=int, default=32)
    sub.add_argument("--learning-rate", type=float, default=1e-3)
    sub.add_argument("--patience", type=int, default=10, help="epochs without improvement before stopping; 0 never")
    sub.add_argument("--precision", default="auto", choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"))
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--resume", action="store_true", help="go on with a finished run, with more --epochs")
    sub.add_argument("--force", action="store_true", help="start over where a bundle is")

    sub = command("reconstruct", reconstruct)
    sub.add_argument("bundle")
    sub.add_argument("files", nargs="+", metavar="FILE")
    sub.add_argument("--out", required=True, help="folder for the wav files")
    sub.add_argument("--force", action="store_true", help="replace existing files")

    sub = command("generate", generate)
    sub.add_argument("bundle")
    sub.add_argument("-n", type=_positive, default=8, help="how many sounds")
    sub.add_argument("--temperature", type=float, default=1.0, help="standard deviation of the draw")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--out", required=True, help="folder for the wav files")
    sub.add_argument("--force", action="store_true", help="replace existing files")

    sub = command("interpolate", interpolate)
    sub.add_argument("bundle")
    sub.add_argument("first", metavar="FILE")
    sub.add_argument("second", metavar="FILE")
    sub.add_argument("-n", type=_positive, default=7, help="how many sounds, both ends included")
    sub.add_argument("--out", required=True, help="folder for the wav files")
    sub.add_argument("--force", action="store_true", help="replace existing files")

    command("verify", verify).add_argument("bundle")

    for name, run in (("compare", compare), ("robustness", robustness)):
        sub = command(name, run)
        sub.add_argument("bundles", nargs="+", metavar="BUNDLE")
        data_options(sub)
        split_rule(sub, "--split-rule")
        sub.add_argument("--split", default="test", choices=("train", "validation", "test"), help="what to measure on")
        sub.add_argument("--limit", type=_positive, help="measure this many clips, spread over the split")
        sub.add_argument("--seed", type=int, default=0)
        sub.add_argument("--out", required=True, help="folder for the page, tables and sounds")
        sub.add_argument("--force", action="store_true", help="replace an earlier result")
        if name == "compare":
            sub.add_argument("--samples", type=int, default=8, help="clips to write as sound")
        else:
            sub.add_argument("--levels", type=_numbers, default=(0, 1, 2, 5, 10, 15, 20), help="dB, as 0,2,5,10,20")
            sub.add_argument("--marked", type=float, default=10.0, help="the level to tabulate and listen to")
            sub.add_argument("--seeds", type=_positive, default=5, help="perturbations of each clip")

    sub = command("export", export)
    sub.add_argument("bundle")
    sub.add_argument("folder", metavar="DIR", help="writes DIR/NAME/VERSION/")
    sub.add_argument("--name", help="of the served model; the bundle's by default")
    sub.add_argument("--version", type=_positive, help="the next free one by default")
    sub.add_argument("--force", action="store_true", help="replace an existing version")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, received {text}")
    return value


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))
