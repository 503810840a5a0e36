"""Sub-commands that measure models, and write a page."""

from collections.abc import Callable
from pathlib import Path

from spectrovae.commands.options import log, open_codec, open_codecs_and_recordings, recordings_for
from spectrovae.commands.outputs import check_out, free_path, inputs_of


def compare(options) -> tuple[dict, str]:
    """Models beside baselines and beside the representation's own ceiling."""
    from spectrovae import evaluation
    from spectrovae.evaluation.compare import RESULT
    from spectrovae.evaluation.judges import Judge

    check_out(options, RESULT)
    judges = [Judge.load(path) for path in options.judge]
    extra = {"samples": options.samples, "resamples": options.resamples, "judges": judges}
    return _evaluation(options, evaluation.compare, evaluation.format_comparison, extra)


def robustness(options) -> tuple[dict, str]:
    """Perturb spectrograms in dB and measure what the models make of them."""
    from spectrovae import evaluation
    from spectrovae.evaluation.robustness import RESULT

    check_out(options, RESULT)
    extra = {"perturbations": options.perturbation} | {
        name: getattr(options, name) for name in ("seeds", "steps", "samples")
    }
    return _evaluation(options, evaluation.robustness, evaluation.format_robustness, extra)


def listen(options) -> tuple[dict, str]:
    """Write a blind listening test, A/B/X, of originals and what models make of them."""
    from spectrovae.evaluation import listen as listening

    check_out(options, listening.RESULT)
    codecs, recordings = open_codecs_and_recordings(options)
    result = listening.listen(
        codecs, recordings, options.out, split=options.split, clips=options.clips, trials=options.trials,
        ceiling=options.ceiling, seed=options.seed, force=options.force, log=log,
    )  # fmt: skip
    page = Path(options.out) / "listen.html"
    return result | {"page": str(page)}, str(page)


def latent(options) -> tuple[dict, str]:
    """Study a model's latent: principal axes, traversals, draws, loss by factor, interpolation, disentanglement."""
    from spectrovae.evaluation import latent as study_of_latent

    check_out(options, study_of_latent.RESULT)
    options.bundles = [options.bundle]
    (codec,), recordings = open_codecs_and_recordings(options)
    result = study_of_latent.latent(
        codec, recordings, options.out, split=options.split, limit=options.limit, dimensions=options.dimensions,
        span=options.span, points=options.points, pairs=options.pairs, seed=options.seed, force=options.force, log=log,
    )  # fmt: skip
    page = Path(options.out) / "report.html"
    return result | {"report": str(page)}, f"{study_of_latent.format_latent(result)}\n\n{page}"


def fidelity(options) -> tuple[dict, str]:
    """How many principal directions of its latent a model needs, and what is lost without the others."""
    from spectrovae.evaluation import fidelity as study_of_fidelity

    check_out(options, study_of_fidelity.RESULT)
    codec = open_codec(options.bundle, prior=False)
    result = study_of_fidelity.fidelity(
        codec, recordings_for(options, [codec]), options.out, split=options.split, limit=options.limit,
        fidelities=options.fidelities, samples=options.samples, seed=options.seed, force=options.force, log=log,
    )  # fmt: skip
    page = Path(options.out) / "report.html"
    return result | {"report": str(page)}, f"{study_of_fidelity.format_fidelity(result)}\n\n{page}"


def disentangle(options) -> tuple[dict, str]:
    """Measure whether a latent's dimensions are a toy set's factors, beside an untrained encoder and chance."""
    from spectrovae import files
    from spectrovae.evaluation import factors

    out = free_path(options.out, options.force, inputs_of(options)) if options.out else None
    codec = open_codec(options.bundle)
    recordings = recordings_for(options, [codec])
    result = factors.disentangle(codec, recordings, split=options.split, seeds=options.seeds, log=log)
    if out:
        files.write_json(out, result)
    return result, factors.format_disentanglement(result)


def _evaluation(options, measure: Callable, table: Callable, extra: dict) -> tuple[dict, str]:
    codecs, recordings = open_codecs_and_recordings(options)
    result = measure(
        codecs, recordings, options.out, split=options.split, limit=options.limit, seed=options.seed,
        force=options.force, log=log, **extra,
    )  # fmt: skip
    page = Path(options.out) / "report.html"
    return result | {"report": str(page)}, f"{table(result)}\n\n{page}"
