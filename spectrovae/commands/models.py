"""Sub-commands that train models and use them."""

import functools
from pathlib import Path

from spectrovae.commands.options import (
    MODEL_OPTIONS,
    REPRESENTATION_OPTIONS,
    chosen_fit_options,
    chosen_model_options,
    counter,
    log,
    open_codec,
    open_recordings,
    plain,
    recordings_of,
    representation_for,
    unclipped,
)
from spectrovae.commands.outputs import free_path, free_paths
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
        recordings = open_recordings(options, [options.family])
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


def fit_prior(options) -> tuple[dict, str]:
    """Learn a prior of a model's latents and keep it in the bundle, for generate to draw from."""
    from spectrovae import training
    from spectrovae.training.prior import figures_text

    codec = training.fit_prior(
        options.bundle, recordings_of(options, open_codec(options.bundle, prior=False)), options.kind,
        conditions=options.conditions, epochs=options.epochs, batch_size=options.batch_size,
        learning_rate=options.learning_rate, preset=options.preset, seed=options.seed, force=options.force,
    )  # fmt: skip
    return codec.learned | {"bundle": options.bundle}, f"{options.bundle}\n{figures_text(codec.learned)}"


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
        "corrupt", "augment", "adversarial_from",
    }  # fmt: skip
    if options.vary and name not in known:
        raise InputError(f"--vary takes one of {', '.join(sorted(known))}, received {name!r}")
    recordings = open_recordings(options, options.families)
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
    outs = free_paths(options.out, options.files, force=options.force, bundle=options.bundle)
    for file in options.files:
        audio.info(file)  # all before the first is computed
    for file, out in zip(options.files, outs):
        waveform, _ = audio.read(file, codec.sample_rate)
        audio.write(out, unclipped(codec.reconstruct(waveform[None])[0], out), codec.sample_rate)
    written = list(map(str, outs))
    return {"files": written}, "\n".join(written)


def transfer(options) -> tuple[dict, str]:
    """Send a file of any length through a model, dimensions of its latent scaled and moved on the way."""
    from spectrovae import audio
    from spectrovae.transfer import transfer

    codec = open_codec(options.bundle, prior=False)
    out = free_path(options.out, options.force, [options.file, options.bundle])
    audio.check_suffix(out)
    header = audio.info(options.file)
    samples = audio.resampled_length(header.samples, header.sample_rate, codec.sample_rate)
    pieces = audio.stream(options.file, codec.sample_rate)
    result = transfer(codec, pieces, samples, scale=options.scale, bias=options.bias)
    peak = audio.write_pieces(out, result, codec.sample_rate)
    if peak > 1.0:
        log(f"{out}: peak {peak:.2f} scaled down to full scale")
    return {"file": str(out), "samples": samples, "peak": peak}, str(out)


def verify(options) -> tuple[dict, str]:
    """Replay a bundle's golden vectors in a process that did not make them."""
    from spectrovae.codec import Codec

    differences = Codec.load(options.bundle).verify(options.bundle)
    return {"differences": differences}, f"{options.bundle}: as saved, relative differences {plain(differences)}"


def diagnose(options) -> tuple[dict, str]:
    """Say what a model's latent carries, and what is wrong with it."""
    from spectrovae.training import examine

    codec = open_codec(options.bundle)
    recordings = recordings_of(options, codec)
    report = examine.examine_bundle(Path(options.bundle), recordings, codec, options.split)
    return examine.plain(report), examine.report_text(report)
