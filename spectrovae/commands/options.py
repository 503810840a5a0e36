"""What sub-commands make of options that several of them have."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spectrovae.commands.outputs import refuse_inputs
from spectrovae.errors import InputError

REPRESENTATION_OPTIONS = (
    "n_fft", "hop_length", "phase_search", "n_mels", "power", "phase", "frame_length", "window", "companding",
    "content", "scale", "bands", "attenuation", "length",
)  # fmt: skip

MODEL_OPTIONS = (
    "latent_dim", "network", "hidden", "head", "linear", "latent_norm", "time_stretch", "time_shift", "bin_stretch",
    "likelihood", "sigma", "alpha", "beta", "warmup", "warmup_epochs", "free_bits", "groups", "balancing",
    "skips", "skip_noise", "spectral_weight",
    "quantiser", "codebook_size", "code_dim", "stages", "normalise", "gradient", "commitment", "commitment_weight",
    "diversity_weight", "restart", "kmeans_steps", "levels", "code_map",
    "version", "causal", "noise", "activation", "adversary", "adversarial_weight", "feature_weight",
    "discriminator_rate",
    "speakers", "speaker_dropout", "speaker_adversary", "speaker_warp", "instance_norm",
)  # fmt: skip


def open_recordings(options, fits):
    """The recordings that the options name, in examples of as many samples as each of some fits, by its options, can
    take."""
    import math

    from spectrovae import models
    from spectrovae.data import Recordings

    def opened(**length):
        return Recordings.open(
            options.data, sample_rate=options.sample_rate, long=options.long, overlap=options.overlap,
            split=options.split_rule, **naming(options), progress=counter("scanned"), **length,
        )  # fmt: skip

    recordings = opened(duration=options.duration)
    multiple = 1
    for own in fits:
        frames = models.FAMILIES[own.family].frames_multiple(own.preset)
        if frames > 1:
            multiple = math.lcm(multiple, frames * build_representation(own, recordings.sample_rate).hop_length)
    missing = -recordings.samples % multiple
    return opened(samples=recordings.samples + missing) if missing else recordings


def naming(options) -> dict[str, Any]:
    """The options that say how recordings are labelled, for ``Recordings.open``."""
    return {name: getattr(options, name) for name in ("pattern", "labels", "label_from")}


def open_codec(path: str, prior: bool = True):
    """A bundle; one that was written before bundles remembered their data takes what its run remembers."""
    import contextlib

    from spectrovae import archives
    from spectrovae.codec import Codec

    codec = Codec.load(path, prior=prior)
    if "open" not in (codec.data or {}):
        file = Path(path) / "run" / "config.json"
        with contextlib.suppress(ValueError, KeyError, TypeError):
            data = archives.parse_json(archives.read_bytes(file), file)["data"]
            own = {"open": dict(data["open"]), "fingerprint": str(data["fingerprint"])}
            codec.data = own | (codec.data or {})
    return codec


def recordings_for(options, codecs, **how):
    """What bundles are measured on: the first one's own data, unless options say otherwise."""
    from spectrovae import data

    own = ((codecs[0].data or {}).get("open") or {}).get("source")
    if getattr(options, "out", None) and options.data is None and isinstance(own, str):
        refuse_inputs(options.out, [own])
    cutting = {"split": options.split_rule, "long": options.long, "overlap": options.overlap}
    return data.recordings_for(
        codecs, options.data, allow_seen=options.allow_seen, progress=counter("scanned"), **naming(options), **cutting,
        **how,
    )  # fmt: skip


def open_codecs_and_recordings(options) -> tuple[list, Any]:
    """The bundles that the options name, of one rate and length, and the recordings opened for them."""
    codecs = [open_codec(bundle) for bundle in options.bundles]
    # Each split is gone through a few times, and never held.
    return codecs, recordings_for(options, codecs, cache_bytes=0)


def chosen_fit_options(options):
    import dataclasses

    from spectrovae.training import FitOptions

    return FitOptions(**{field.name: getattr(options, field.name) for field in dataclasses.fields(FitOptions)})


def chosen_model_options(options) -> dict[str, Any]:
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


def build_representation(options, sample_rate: int, **given):
    """The representation that the options name; an option that it does not have is refused."""
    import inspect

    from spectrovae import representations

    wanted = _family_representation(options)
    name = options.representation or wanted or "log-stft"
    if name not in representations.REPRESENTATIONS:
        names = ", ".join(representations.REPRESENTATIONS)
        raise InputError(f"--representation must be one of {names}, received {name!r}")
    if wanted and name != wanted:
        raise InputError(f"{options.family} works on --representation {wanted}, received {name!r}")
    cls = representations.REPRESENTATIONS[name]
    own = {"dynamic_range": options.dynamic_range, "normalisation": options.normalisation, **given}
    for option in REPRESENTATION_OPTIONS:
        if getattr(options, option) is not None:
            if option not in inspect.signature(cls).parameters:
                raise InputError(f"--{option.replace('_', '-')} is no option of {name}")
            own[option] = getattr(options, option)
    return cls(sample_rate, **own)


def _family_representation(options) -> str | None:
    """The representation that the family asks for, where one is being fitted."""
    from spectrovae import models

    family = models.FAMILIES.get(str(getattr(options, "family", None)))
    return family.representation_name if family else None


def representation_for(options, recordings):
    from spectrovae.representations import Chunks, Waveform

    given = {} if options.max_db is None else {"max_db": options.max_db}
    representation = build_representation(options, recordings.sample_rate, **given)
    if isinstance(representation, Chunks) and options.length is None:
        given["length"] = recordings.samples
        representation = build_representation(options, recordings.sample_rate, **given)
    if options.max_db is None:
        peak = round(representation.peak_db(recordings.waveforms("train")), 2)
        log(f"the training split peaks at {peak:g} dB: the range is [{peak - options.dynamic_range:g}, {peak:g}] dB")
        given["max_db"] = peak
    if isinstance(representation, Waveform):
        given["peak"] = round(representation.sample_peak(recordings.waveforms("train")), 4)
        log(f"the training split's largest sample is {given['peak']:g}, which becomes 1")
    return build_representation(options, recordings.sample_rate, **given)


def unclipped(waveform, path):
    """Scale down what exceeds full scale, and say so, instead of clipping it."""
    peak = float(abs(waveform).max(initial=0.0))
    if peak > 1.0:
        log(f"{path}: peak {peak:.2f} scaled down to full scale")
        return waveform / peak
    return waveform


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def counter(verb: str) -> Callable[[int, int], None] | None:
    """A progress callback that rewrites one line of a terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        print(f"\r{verb} {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    value = value.item() if hasattr(value, "item") else value  # NumPy's numbers
    return f"{value:.4g}" if isinstance(value, float) else str(value)
