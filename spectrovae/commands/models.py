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
    naming,
    open_codec,
    open_recordings,
    plain,
    recordings_for,
    representation_for,
    unclipped,
)
from spectrovae.commands.outputs import free_path, free_paths, inputs_of, refuse_held
from spectrovae.errors import InputError


def fit(options) -> tuple[dict, str]:
    """Train a model; the same command again continues where it was stopped."""
    import dataclasses

    from spectrovae import training

    with training.reserved(options.out):
        if options.config:
            training_options = {field.name for field in dataclasses.fields(training.FitOptions)}
            settled = options.given - training_options - {"config", "data", "out", "resume", "force", "json"}
            if settled:
                names = ", ".join(sorted("--" + name.replace("_", "-") for name in settled))
                raise InputError(f"--config repeats a run as it was, so {names} cannot be given beside it")
            changes = {name: getattr(options, name) for name in options.given & training_options}
            codec = training.repeat(
                options.config, options.out, data=options.data, resume=options.resume, force=options.force, **changes
            )
        else:
            for name in ("family", "data"):
                if getattr(options, name) is None:
                    raise InputError(
                        f"fit needs {'FAMILY' if name == 'family' else '--data'}, or --config FILE of a run to repeat"
                    )
            recordings = open_recordings(options, [options])
            log(recordings.describe())
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

    refuse_held(options.out, inputs_of(options))
    recordings = Recordings.open(options.data, split=options.split_rule, **naming(options), progress=counter("scanned"))
    log(recordings.describe())
    judge = training.fit_judge(
        options.target, recordings, options.out, epochs=options.epochs, seed=options.seed, force=options.force
    )
    figures = judge.info | {"judge": options.out, "data": judge.info["data"]["open"]}
    return figures, f"{options.out}: {plain(judge.info['accuracy'])}"


def fit_prior(options) -> tuple[dict, str]:
    """Learn a prior of a model's latents and keep it in the bundle, for generate to draw from."""
    from spectrovae import training
    from spectrovae.training.prior import REJECTED, result_text

    recordings = recordings_for(options, [open_codec(options.bundle, prior=False)])
    log(recordings.describe())
    codec = training.fit_prior(
        options.bundle, recordings, options.kind,
        conditions=options.conditions, epochs=options.epochs, batch_size=options.batch_size,
        learning_rate=options.learning_rate, preset=options.preset, seed=options.seed, force=options.force,
    )  # fmt: skip
    rejected = codec.info.get(REJECTED)
    result = (rejected or codec.learned) | {"kept": rejected is None, "bundle": options.bundle}
    return result, f"{options.bundle}\n{result_text(codec)}"


LISTS = ("levels", "skips", "code_map", "augment")
"""Options whose value is a list, and has commas of its own."""


def study(options) -> tuple[dict, str]:
    """Fit several families, or one with several values of an option, on several seeds: one table, one picture."""
    import copy

    from spectrovae import models, study, training

    for family in options.families:
        if family not in models.FAMILIES:
            raise InputError(f"family must be one of {', '.join(models.FAMILIES)}, received {family!r}")
    name, _, values = (options.vary or "").partition("=")
    name = name.replace("-", "_")
    separator = "," if ";" not in values and name not in LISTS else ";"
    varied = [text.strip() for text in values.split(separator) if text.strip()]
    if options.vary is not None and (len(options.families) > 1 or not varied):
        raise InputError(
            "--vary takes NAME=A,B,... and one family (lists, as levels has them, with semicolons: levels=8,6,5;4,4), "
            f"received {options.vary!r}, {options.families}"
        )
    known = {"preset", "representation", "normalisation", "max_db", "dynamic_range"} | {
        *MODEL_OPTIONS, *REPRESENTATION_OPTIONS, "epochs", "batch_size", "learning_rate", "patience", "precision",
        "corrupt", "augment", "adversarial_from",
    }  # fmt: skip
    if options.vary and name not in known:
        raise InputError(f"--vary takes one of {', '.join(sorted(known))}, received {name!r}")
    fits = []
    for family in options.families:
        for text in varied or [""]:
            own = copy.copy(options)
            own.family = family
            if text:
                setattr(own, name, options.option(name, text))
            fits.append((f"{family} {name}={text}" if text else family, own))
    recordings = open_recordings(options, [own for _, own in fits])
    log(recordings.describe())
    trials = []
    for title, own in fits:
        model, representation = chosen_model_options(own), representation_for(own, recordings)
        for seed in options.seeds:
            own.seed = seed
            trials.append(study.Trial(
                title, own.family, seed,
                functools.partial(
                    training.fit, own.family, recordings, representation, options=chosen_fit_options(own), reuse=True,
                    **model,
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
    out = free_path(options.out, options.force, inputs_of(options))
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
    recordings = recordings_for(options, [codec])
    report = examine.examine_bundle(Path(options.bundle), recordings, codec, options.split)
    return report, examine.report_text(report)
