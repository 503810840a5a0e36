"""Sub-commands that train models and use them."""

import functools
from pathlib import Path

from spectrovae.commands.options import (
    MODEL_OPTIONS,
    REPRESENTATION_OPTIONS,
    chosen_fit_options,
    chosen_model_options,
    counter,
    free_path,
    log,
    open_codec,
    open_recordings,
    plain,
    representation_for,
    unclipped,
)
from spectrovae.errors import InputError


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
        recordings = open_recordings(options)
        codec = training.fit(
            options.family,
            recordings,
            representation_for(options, recordings),
            options.out,
            chosen_fit_options(options),
            resume=options.resume,
            force=options.force,
            **chosen_model_options(options),
        )
    return codec.info | {"bundle": options.out}, f"{options.out}: {plain(codec.info['metrics'])}"


def fit_judge(options) -> tuple[dict, str]:
    """Train a classifier of labels or speakers, for compare to play reconstructions to."""
    from spectrovae import training
    from spectrovae.data import Recordings

    recordings = Recordings.open(
        options.data, split=options.split_rule, pattern=options.pattern, progress=counter("scanned")
    )
    judge = training.fit_judge(
        options.target, recordings, options.out, epochs=options.epochs, seed=options.seed, force=options.force
    )
    return judge.info | {"judge": options.out}, f"{options.out}: {plain(judge.info['accuracy'])}"


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
    recordings = open_recordings(options)
    trials = []
    for family in options.families:
        for text in values.split(",") if values else [""]:
            own = copy.copy(options)
            own.family = family
            if text:
                setattr(own, name, options.option(name, text))
            model, representation = chosen_model_options(own), representation_for(own, recordings)
            for seed in options.seeds:
                own.seed = seed
                trials.append(study.Trial(
                    f"{family} {name}={text}" if text else family, family, seed,
                    functools.partial(
                        training.fit, family, recordings, representation, options=chosen_fit_options(own), **model
                    ),
                ))  # fmt: skip
    result = study.study(trials, recordings, options.out, split=options.measure, log=log)
    page = Path(options.out) / "report.html"
    return result | {"report": str(page)}, f"{study.format_study(result)}\n\n{page}"


def reconstruct(options) -> tuple[dict, str]:
    """Send audio files through a model; files at another rate are resampled, channels mixed down."""
    from spectrovae import audio

    codec = open_codec(options.bundle)
    written = []
    for file in options.files:
        waveform, _ = audio.read(file, codec.sample_rate)
        out = free_path(Path(options.out) / f"{Path(file).stem}.wav", options.force)
        audio.write(out, unclipped(codec.reconstruct(waveform[None])[0], out), codec.sample_rate)
        written.append(str(out))
    return {"files": written}, "\n".join(written)


def generate(options) -> tuple[dict, str]:
    """Draw new sounds from a model's prior."""
    from spectrovae import audio

    codec = open_codec(options.bundle)
    outs = [free_path(Path(options.out) / f"{codec.name}-{index:04}.wav", options.force) for index in range(options.n)]
    for out, sound in zip(outs, codec.generate(options.n, temperature=options.temperature, seed=options.seed)):
        audio.write(out, unclipped(sound, out), codec.sample_rate)
    return {"files": [str(out) for out in outs]}, "\n".join(map(str, outs))


def interpolate(options) -> tuple[dict, str]:
    """Sounds between two recordings, on the straight line between their latents."""
    from spectrovae import audio

    codec = open_codec(options.bundle)
    outs = [free_path(Path(options.out) / f"{index:02}.wav", options.force) for index in range(options.n)]
    first, second = (audio.read(file, codec.sample_rate)[0] for file in (options.first, options.second))
    for out, sound in zip(outs, codec.interpolate(first, second, options.n)):
        audio.write(out, unclipped(sound, out), codec.sample_rate)
    return {"files": [str(out) for out in outs]}, "\n".join(map(str, outs))


def verify(options) -> tuple[dict, str]:
    """Replay a bundle's golden vectors in a process that did not make them."""
    from spectrovae.codec import Codec

    differences = Codec.load(options.bundle).verify(options.bundle)
    return {"differences": differences}, f"{options.bundle}: as saved, relative differences {plain(differences)}"


def diagnose(options) -> tuple[dict, str]:
    """Say what a model's latent carries, and what is wrong with it."""
    from spectrovae.data import Recordings
    from spectrovae.training import examine

    codec = open_codec(options.bundle)
    recordings = Recordings.open(
        options.data, sample_rate=codec.sample_rate, samples=codec.segment_samples, split=options.split_rule,
        progress=counter("scanned"),
    )  # fmt: skip
    report = examine.examine_bundle(Path(options.bundle), recordings, codec, options.split)
    return examine.plain(report), examine.report_text(report)
