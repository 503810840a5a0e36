"""The command ``spectrovae``: a thin sub-command for each capability.

Exit codes: 0 done, 1 failed, 2 wrong use or wrong input, 130 interrupted. Progress goes to standard error, results to
standard output, as JSON with ``--json``.
"""

import argparse
import contextlib
import errno
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import spectrovae
from spectrovae import commands, environment, files
from spectrovae.commands.outputs import inputs_of
from spectrovae.commands.parsing import Parser, number, whole_number
from spectrovae.errors import InputError, within_graphs
from spectrovae.serving.deployment import IMAGE

# models.FAMILIES, known without importing Keras
FAMILIES = "autoencoder, vae, hierarchical-vae, vq-vae, unet, waveform-vae, rave"

PRIORS = "pixelcnn, wavenet, mixture, flow, latent-wavenet"  # models.PRIORS, likewise

GUIDANCE = 1.05  # conversion.GUIDANCE, likewise

SPLIT_RULES = ("auto", "hash", "speaker", "fsdd", "folder", "time", "table")  # data.splits.SPLIT_RULES, likewise

PERTURBATIONS = (  # evaluation.perturbations.PERTURBATIONS, likewise
    "uniform, gaussian, signs, gain, tilt, band-mask, time-mask, white-noise, pink-noise, resampling, mp3, vorbis"
)


_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    With ``SPECTROVAE_DEBUG=1`` in the environment errors come with their traceback.
    """
    try:
        environment.prepare_streams()
        options = _parser().parse_args(arguments)
        environment.prepare_libraries()
        _check_inputs(options)
        with within_graphs():
            result, text = options.run(options)
        print(json.dumps(files.as_json(result), indent=2, allow_nan=False) if options.json else text, flush=True)
        return 0
    except KeyboardInterrupt:
        print("spectrovae: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # what is left to print has no reader; Python would complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("SPECTROVAE_DEBUG", "0") not in ("", "0"):
            traceback.print_exc()
        print(f"spectrovae: error: {' '.join(_message(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, (InputError, *_MISSING)) else 1


def _message(error: Exception) -> str:
    """What to say of an error."""
    if type(error).__module__ == InputError.__module__:
        return str(error)
    number = getattr(error, "errno", None)
    if isinstance(error, MemoryError) or number == errno.ENOMEM or type(error).__name__ == "ResourceExhaustedError":
        return "out of memory; use shorter sounds, fewer clips or a smaller batch"
    if number in (errno.EMFILE, errno.ENFILE):
        return "too many files are open; close some, or raise the limit (ulimit -n)"
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename is not None and error.strerror else str(error)
    if isinstance(error, RecursionError):
        return "an input is nested too deeply"
    if isinstance(error, UnicodeError):
        return f"a text or file name cannot be encoded: {error}"
    return f"{type(error).__name__}: {error}; a fault of spectrovae: SPECTROVAE_DEBUG=1 shows where, please report it"


def _check_inputs(options: argparse.Namespace) -> None:
    """Refuse what cannot be read more than once: pipes, devices and ``-``."""
    for path in inputs_of(options):
        if path == "-" and not os.path.exists(path):
            raise InputError("- is no file: pipes are not read; write to a file and give its name")
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise InputError(f"{path} is a pipe or device, which is not read; write to a file first")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="spectrovae", description="Model sound through spectrograms with Keras.")
    parser.add_argument("--version", action="version", version=f"spectrovae {spectrovae.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable, parent=subparsers) -> argparse.ArgumentParser:
        sub = parent.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        sub.set_defaults(run=run)
        return sub

    def data_options(sub: argparse.ArgumentParser, required: bool = True) -> None:
        sub.add_argument("--data", required=required, help="folder, manifest, or toy set such as toy:harmonic")

    def voice_option(sub: argparse.ArgumentParser) -> None:
        text = "how much the voice weighs: above 1 it is plainer, and words suffer"
        sub.add_argument("--guidance", type=float, default=GUIDANCE, help=f"{text} ({GUIDANCE})")

    def split_rule(sub: argparse._ActionsContainer, flag: str, default: str | None = "auto") -> None:
        text = f"how recordings are split: {', '.join(SPLIT_RULES)}; {default or 'as for the fit'} by default"
        sub.add_argument(flag, dest="split_rule", default=default, choices=SPLIT_RULES, metavar="RULE", help=text)

    def naming_options(sub: argparse._ActionsContainer) -> None:
        sub.add_argument("--pattern", help="regular expression with groups label, speaker, index for the file names")
        text = "table (CSV, TSV) with columns of file names and labels, perhaps speakers and splits"
        sub.add_argument("--labels", metavar="FILE", help=text)
        text = "folder level that names the label: 1 is the top, -1 the deepest"
        sub.add_argument("--label-from", type=int, metavar="LEVEL", help=text)

    def cutting_options(
        sub: argparse._ActionsContainer, long: str | None = "auto", overlap: float | None = 0.5
    ) -> None:
        kinds = ("auto", "crop", "chunk")
        sub.add_argument("--long", default=long, choices=kinds, help="what becomes of recordings beyond an example")
        sub.add_argument("--overlap", type=float, default=overlap, help="the part that neighbouring chunks share")

    def own_data_options(sub: argparse.ArgumentParser, flag: str = "--split-rule", optional: bool = False) -> None:
        """Data of a bundle, by default those of its fit; ``optional`` ones are opened only where --data is given."""
        if optional:
            text = "compare with recordings: folder, manifest or toy set; without a name those of the fit"
            sub.add_argument("--data", nargs="?", const="", help=text)
        else:
            sub.add_argument("--data", help="folder, manifest or toy set; the model's own by default")
        group = sub.add_argument_group("data", "as for the fit, unless given")
        split_rule(group, flag, None)
        naming_options(group)
        cutting_options(group, None, None)
        text = "measure on clips that the model was trained or validated on, too, and say so"
        group.add_argument("--allow-seen", action="store_true", help=text)

    def representation_options(sub: argparse.ArgumentParser, peak: str) -> None:
        group = sub.add_argument_group("representation")
        names = "log-stft, log-mel, magnitude-phase, mdct, spectrum, subbands, chunks; log-stft or the family's"
        group.add_argument("--representation", metavar="NAME", help=names)
        group.add_argument("--normalisation", default="range", choices=("range", "per_bin", "per_example"))
        group.add_argument("--max-db", type=float, help=f"top of the range in dB; {peak} by default")
        group.add_argument("--dynamic-range", type=float, default=80.0, help="dB below the top at which levels end")
        group.add_argument("--n-fft", type=_positive, help="samples of a window; by default what 64 ms hold")
        group.add_argument("--hop-length", type=_positive, help="samples between frames; a quarter window by default")
        group.add_argument("--phase-search", help="log-stft, log-mel: accelerated_griffin_lim, griffin_lim, pghi, ...")
        group.add_argument("--n-mels", type=_positive, help="log-mel: bands")
        group.add_argument("--power", type=_positive, help="log-mel: 1 for magnitude, 2 for power")
        group.add_argument("--phase", help="magnitude-phase: cos_sin or instantaneous_frequency")
        group.add_argument("--frame-length", type=_positive, help="mdct: samples of a window")
        group.add_argument("--window", help="mdct: vorbis, sine or kbd")
        group.add_argument("--content", help="spectrum: magnitude, magnitude_phase or mdct")
        group.add_argument("--scale", help="spectrum: db or linear")
        group.add_argument("--bands", type=_positive, help="subbands: how many; by default 4, 8 or 16, as the rate is")
        group.add_argument("--attenuation", type=float, help="subbands: of the filters, in dB; 100 by default")
        group.add_argument("--length", type=_positive, help="chunks: samples of one; an example by default")
        group.add_argument("--companding", help="mdct: asinh, mu_law, linear or sign_log")

    def fit_options(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--sample-rate", type=int, help="Hz; the recordings' most common by default")
        sub.add_argument("--duration", type=float, help="seconds of an example")
        cutting_options(sub)
        naming_options(sub)
        split_rule(sub, "--split")
        representation_options(sub, "the training split's peak")
        sub.add_argument("--preset", default="small", choices=("tiny", "small", "base", "paper"), help="paper: of rave")
        model = sub.add_argument_group("model", "a family refuses what it does not have")
        model.add_argument("--latent-dim", type=int, help="the preset's by default")
        model.add_argument("--network", choices=("convolutional", "dense", "linear"), help="convolutional by default")
        model.add_argument("--hidden", type=_positive, help="units of the dense network's hidden layer; 400 by default")
        model.add_argument("--head", choices=("flatten", "pool", "sequence"), help="how the convolutional encoder ends")
        model.add_argument("--linear", choices=("learned", "principal"), help="the linear path beside the convolutions")
        model.add_argument("--latent-norm", action="store_true", default=None, help="batch normalisation of the latent")
        model.add_argument("--time-stretch", type=float, help="train at tempi changed by up to this factor, as 0.15")
        model.add_argument("--time-shift", type=float, help="train on sounds moved by up to this many frames")
        model.add_argument("--bin-stretch", type=float, help="train at pitches changed by up to this factor, as 0.05")
        likelihoods = ("sigma", "gaussian", "fixed_sigma", "bernoulli", "alpha_rmse", "alpha_mse")
        model.add_argument("--likelihood", choices=likelihoods)
        model.add_argument("--sigma", type=float, help="of the likelihood fixed_sigma, in feature units")
        model.add_argument("--alpha", type=float, help="reconstruction weight of the alpha likelihoods")
        model.add_argument("--beta", type=float, help="weight of the KL divergence")
        model.add_argument("--warmup", choices=("linear", "cyclical", "log"), help="how beta grows; linear by default")
        model.add_argument(
            "--warmup-epochs", type=float, help="epochs over which beta grows; 3 of a hierarchy by default"
        )
        model.add_argument("--free-bits", type=float, help="nats of each dimension that are not penalised, as 0.05")
        model.add_argument("--skips", type=_levels, help="unet: all, none, or levels as 0,2 (0 is full resolution)")
        model.add_argument("--skip-noise", type=float, help="unet: noise on the skips, in their standard deviations")
        model.add_argument("--groups", type=int, choices=(2, 3), help="hierarchical-vae: groups of latents")
        model.add_argument(
            "--balancing", action=argparse.BooleanOptionalAction, help="hierarchical-vae: balance KL in warm-up"
        )
        model.add_argument("--spectral-weight", type=float, help="waveform-vae: of the spectral distance; 0 for none")
        codes = sub.add_argument_group("codes of the vq-vae")
        codes.add_argument(
            "--quantiser", choices=("vector", "scalar"), help="a learned codebook, or rounded dimensions"
        )
        codes.add_argument("--codebook-size", type=_positive, help="vector: codes of a stage; 256 by default")
        codes.add_argument("--code-dim", type=_positive, help="vector: dimensions in which codes are compared")
        codes.add_argument("--stages", type=_positive, help="vector: each after the first codes what was left before")
        codes.add_argument(
            "--normalise", action=argparse.BooleanOptionalAction, help="vector: compare directions alone"
        )
        codes.add_argument("--gradient", choices=("rotation", "straight_through"), help="vector: past the codes")
        codes.add_argument("--commitment", choices=("fixed", "adapted"), help="vector: variance round a code's vector")
        codes.add_argument("--commitment-weight", type=float)
        codes.add_argument("--diversity-weight", type=float, help="of the capacity that codes leave unused")
        codes.add_argument("--restart", type=float, help="share of the average use below which a code starts anew")
        codes.add_argument("--kmeans-steps", type=int, help="iterations that place the codebook at first")
        codes.add_argument("--levels", type=_whole, help="scalar: of each dimension, as 8,6,5")
        codes.add_argument(
            "--code-map", type=_whole, metavar="ROWS,COLUMNS", help="of an example; 1,32 is a row in time"
        )
        rave = sub.add_argument_group("rave")
        rave.add_argument("--version", choices=("v1", "v2"), help="v1, the paper's, by default")
        rave.add_argument("--causal", action="store_true", default=None, help="see no later sample, to stream")
        rave.add_argument("--noise", action=argparse.BooleanOptionalAction, help="a branch of filtered noise")
        rave.add_argument("--activation", choices=("leaky_relu", "snake"), help="of v2")
        rave.add_argument("--adversary", choices=("hinge", "least_squares"))
        rave.add_argument("--adversarial-weight", type=float, help="beside the spectral distance (1)")
        rave.add_argument("--feature-weight", type=float, help="of feature matching (10)")
        rave.add_argument("--discriminator-rate", type=float, help="learning rate, relative to the decoder's (0.1)")
        voices = sub.add_argument_group("speakers of the vae and the vq-vae")
        text = "tell the decoder who speaks, to convert one voice into another"
        voices.add_argument("--speakers", action="store_true", default=None, help=text)
        text = "how often, in training, it is not told (0.1)"
        voices.add_argument("--speaker-dropout", type=float, metavar="P", help=text)
        text = "weight of the gradient that hides the speaker from the latent; 0 for none"
        voices.add_argument("--speaker-adversary", type=float, metavar="WEIGHT", help=text)
        text = "in training the encoder hears frequencies changed by up to this factor (0.1)"
        voices.add_argument("--speaker-warp", type=float, metavar="FACTOR", help=text)
        text = "vq-vae: normalise each example's channels in the encoder"
        voices.add_argument("--instance-norm", action=argparse.BooleanOptionalAction, help=text)
        sub.add_argument(
            "--corrupt", metavar="NAME[:SEVERITY]", help=f"train on inputs corrupted so, to undo it: {PERTURBATIONS}"
        )
        text = "change training recordings anew in each epoch, for little data: gain, phase, mute, compression"
        sub.add_argument("--augment", metavar="NAME[:STRENGTH],...", help=text)
        sub.add_argument("--epochs", type=int, default=30)
        sub.add_argument("--batch-size", type=int, default=32)
        sub.add_argument("--learning-rate", type=float, default=1e-3)
        sub.add_argument("--patience", type=int, default=10, help="epochs without improvement before stopping; 0 never")
        text = "rave: epochs before the adversary joins; two thirds by default"
        sub.add_argument("--adversarial-from", type=int, metavar="EPOCHS", help=text)
        sub.add_argument("--precision", default="auto", choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"))
        text = "time between states saved within an epoch, as 10m, 30s; 0 saves at the end of each epoch only (10m)"
        sub.add_argument("--checkpoint-every", default="10m", metavar="MINUTES", help=text)

    def fit_option(name: str, text: str) -> Any:
        """The value of an option of fit that is given as text."""
        alone = Parser(prog=f"spectrovae study --vary {name}", add_help=False, allow_abbrev=False)
        fit_options(alone)
        if any(action.dest == name and action.nargs == 0 for action in alone._actions):
            raise InputError(f"--vary takes options with values, received the switch {name!r}; run two studies")
        return getattr(alone.parse_args([f"--{name.replace('_', '-')}={text}"]), name)

    command("doctor", commands.doctor)

    data = subparsers.add_parser("data", help="recordings: scan, fetch").add_subparsers(
        required=True, metavar="COMMAND"
    )
    sub = command("scan", commands.data_scan, data)
    sub.add_argument("data", metavar="DATA", help="folder of audio files: wav, flac, ogg, mp3, aiff, w64, ...")
    sub.add_argument("--out", help="write the manifest (JSON lines) here")
    naming_options(sub)
    sub.add_argument("--split", default="auto", choices=SPLIT_RULES, help="split rule to show")
    sub = command("fsdd", commands.data_fsdd, data)
    sub.add_argument("folder", nargs="?", default="fsdd", help="where to put it")
    sub.add_argument("--archive", help="the zip archive, fetched by other means")

    sub = command("transform", commands.transform)
    sub.add_argument("file", metavar="FILE")
    sub.add_argument("--out", required=True, help="folder for features, picture and sound")
    sub.add_argument("--sample-rate", type=_positive, help="resample to this rate in Hz first")
    sub.add_argument("--force", action="store_true", help="replace an earlier result")
    representation_options(sub, "the file's peak")

    sub = command("invert", commands.invert)
    sub.add_argument("features", metavar="FEATURES", help="features.npy of a folder that transform wrote")
    sub.add_argument("--out", required=True, help="audio file to write")
    sub.add_argument("--force", action="store_true", help="replace an existing file")

    sub = command("fit", commands.fit)
    sub.add_argument("family", nargs="?", choices=FAMILIES.split(", "))
    data_options(sub, required=False)
    sub.add_argument("--out", required=True, help="folder of the bundle")
    sub.add_argument(
        "--config", help="run/config.json of a run to repeat; --data and options of training may be changed"
    )
    fit_options(sub)
    sub.add_argument("--seed", type=int, default=0)
    again = sub.add_mutually_exclusive_group()
    text = "go on with a finished run, with more --epochs, or one that stopped improving"
    again.add_argument("--resume", action="store_true", help=text)
    text = "start over where a bundle is, which stays until the first epoch is over"
    again.add_argument("--force", action="store_true", help=text)

    sub = command("study", commands.study)
    sub.add_argument("families", nargs="+", metavar="FAMILY", help=FAMILIES)
    data_options(sub)
    text = "an option of fit, as beta=0.5,1,2, or with semicolons where a value has commas, as 'levels=8,6,5;4,4'"
    sub.add_argument("--vary", metavar="NAME=A,B,...", help=text + "; of one family")
    sub.add_argument("--seeds", type=_whole, default=(0,), help="as 0,1,2")
    sub.add_argument("--measure", default="test", choices=("train", "validation", "test"), help="the split measured")
    sub.add_argument("--out", required=True, help="folder; a study that was stopped continues there")
    fit_options(sub)
    sub.set_defaults(option=fit_option)

    sub = command("fit-judge", commands.fit_judge)
    sub.add_argument("target", choices=("label", "speaker"), help="what to tell apart; of FSDD labels are digits")
    data_options(sub)
    split_rule(sub, "--split")
    naming_options(sub)
    sub.add_argument("--out", required=True, help="folder of the judge")
    sub.add_argument("--epochs", type=_positive, default=20)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--force", action="store_true", help="replace a judge that is there")

    sub = command("fit-prior", commands.fit_prior)
    sub.add_argument("bundle")
    own_data_options(sub, "--split")
    sub.add_argument("--kind", help=f"{PRIORS}; for codes, vectors and rave by default first, third, last")
    text = "of label and speaker; by default those that all training examples have"
    sub.add_argument("--conditions", nargs="*", choices=("label", "speaker"), help=text)
    sub.add_argument("--preset", default="small", choices=("tiny", "small", "large"))
    sub.add_argument("--epochs", type=_positive, default=30, help="a mixture needs none")
    sub.add_argument("--batch-size", type=_positive, default=32)
    sub.add_argument("--learning-rate", type=float, default=1e-3)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--force", action="store_true", help="replace a prior that is there")

    sub = command("reconstruct", commands.reconstruct)
    sub.add_argument("bundle")
    sub.add_argument("files", nargs="+", metavar="FILE")
    sub.add_argument("--out", required=True, help="folder for the wav files")
    sub.add_argument("--force", action="store_true", help="replace existing files")

    sub = command("transfer", commands.transfer)
    sub.add_argument("bundle")
    sub.add_argument("file", metavar="IN", help="a recording of any length, at any rate")
    sub.add_argument("out", metavar="OUT", help="audio file to write")
    text = "what a dimension of the latent is multiplied by, as 0:1.5,3:0.2"
    sub.add_argument("--scale", type=_by_dimension, default={}, metavar="D:FACTOR,...", help=text)
    text = "what is then added to it, in standard deviations of its prior"
    sub.add_argument("--bias", type=_by_dimension, default={}, metavar="D:OFFSET,...", help=text)
    sub.add_argument("--force", action="store_true", help="replace an existing file")

    sub = command("convert", commands.convert)
    sub.add_argument("bundle")
    sub.add_argument("files", nargs="+", metavar="FILE")
    sub.add_argument("--speaker", required=True, help="whose voice, of those that the model was fitted with")
    voice_option(sub)
    sub.add_argument("--out", required=True, help="folder for the wav files, or a wav file for one")
    sub.add_argument("--force", action="store_true", help="replace existing files")

    sub = command("generate", commands.generate)
    sub.add_argument("bundle")
    sub.add_argument("-n", type=_positive, default=8, help="how many sounds")
    text = "below 1 more typical, less varied; 0 takes what is likeliest"
    sub.add_argument("--temperature", type=float, default=1.0, help=text)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--label", help="what to draw, of FSDD the digit; of a learned prior")
    sub.add_argument("--speaker", help="who is to say it; of a learned prior")
    sub.add_argument("--top-k", type=int, default=0, help="of codes: draw from the K likeliest (all)")
    sub.add_argument("--top-p", type=float, default=1.0, help="of codes: from the fewest that hold this probability")
    text = "of codes: above 1 heeds --label and --speaker more, varies less and takes twice the work"
    sub.add_argument("--guidance", type=float, default=1.0, help=text)
    sub.add_argument("--prefix", metavar="FILE", help="of codes: a beginning, shorter than a segment, to continue")
    text = "folder of a judge (fit-judge) that says what it hears; may be given again"
    sub.add_argument("--judge", action="append", default=[], metavar="DIR", help=text)
    own_data_options(sub, optional=True)
    sub.add_argument("--out", required=True, help="folder for the wav files and the page")
    sub.add_argument("--force", action="store_true", help="replace existing files")

    sub = command("interpolate", commands.interpolate)
    sub.add_argument("bundle")
    sub.add_argument("first", metavar="FILE")
    sub.add_argument("second", metavar="FILE")
    sub.add_argument("-n", type=_positive, default=7, help="how many sounds, both ends included")
    text = "line: straight; sphere: the great circle, for latents whose prior is normal"
    sub.add_argument("--path", default="line", choices=("line", "sphere"), help=text)
    sub.add_argument("--out", required=True, help="folder for the wav files and the page")
    sub.add_argument("--force", action="store_true", help="replace existing files")

    command("verify", commands.verify).add_argument("bundle")

    sub = command("diagnose", commands.diagnose)
    sub.add_argument("bundle")
    own_data_options(sub)
    sub.add_argument(
        "--split", default="validation", choices=("train", "validation", "test"), help="what to measure on"
    )

    sub = command("disentangle", commands.disentangle)
    sub.add_argument("bundle")
    own_data_options(sub)
    sub.add_argument("--split", default="test", choices=("train", "validation", "test"), help="what to measure on")
    sub.add_argument("--seeds", type=_whole, default=(0, 1, 2, 3, 4), help="as 0,1,2")
    sub.add_argument("--out", help="write the result (JSON) here")
    sub.add_argument("--force", action="store_true", help="replace an existing file")

    for name, run in (("compare", commands.compare), ("robustness", commands.robustness)):
        sub = command(name, run)
        sub.add_argument("bundles", nargs="+", metavar="BUNDLE")
        own_data_options(sub)
        sub.add_argument("--split", default="test", choices=("train", "validation", "test"), help="what to measure on")
        sub.add_argument("--limit", type=_positive, help="measure this many clips, spread over the split")
        sub.add_argument("--seed", type=int, default=0)
        sub.add_argument("--out", required=True, help="folder for the page, tables and sounds")
        sub.add_argument("--force", action="store_true", help="replace an earlier result")
        if name == "compare":
            sub.add_argument("--samples", type=int, default=8, help="clips to write as sound")
            sub.add_argument("--resamples", type=_positive, default=10_000, help="of the bootstrap (10000)")
            text = "folder of a judge (fit-judge) that the sounds are played to; may be given again"
            sub.add_argument("--judge", action="append", default=[], metavar="DIR", help=text)
        else:
            sub.add_argument(
                "--perturbation", nargs="+", type=_perturbation, default=["uniform"], metavar="NAME[:SEVERITY,...]",
                help=f"{PERTURBATIONS}, or worst-case; as uniform:0,2,5,10,20 mp3 worst-case:2,5",
            )  # fmt: skip
            sub.add_argument("--seeds", type=_positive, default=5, help="perturbations of each clip")
            sub.add_argument("--steps", type=_positive, default=20, help="of the ascent to the worst case")
            sub.add_argument("--samples", type=int, default=4, help="clips to write as sound")

    sub = command("judge-conversion", commands.judge_conversion)
    sub.add_argument("bundle")
    own_data_options(sub)
    sub.add_argument("--split", default="test", choices=("train", "validation", "test"), help="what to convert")
    sub.add_argument("--limit", type=_positive, help="convert this many clips, spread over the split")
    voice_option(sub)
    text = "folder of a judge (fit-judge) of labels or speakers; may be given again"
    sub.add_argument("--judge", action="append", default=[], metavar="DIR", help=text)
    sub.add_argument("--samples", type=int, default=4, help="clips to write as sound")
    sub.add_argument("--resamples", type=_positive, default=10_000, help="of the bootstrap (10000)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--out", required=True, help="folder for the page, tables and sounds")
    sub.add_argument("--force", action="store_true", help="replace an earlier result")

    sub = command("latent", commands.latent)
    sub.add_argument("bundle")
    own_data_options(sub)
    sub.add_argument("--split", default="test", choices=("train", "validation", "test"), help="what to measure on")
    sub.add_argument("--limit", type=_positive, default=1000, help="clips at most, spread over the split (1000)")
    sub.add_argument("--dimensions", type=_positive, default=6, help="of each group, traversed one by one (6)")
    sub.add_argument("--span", type=float, default=4.0, help="deviations from the middle, to either side (4)")
    sub.add_argument("--points", type=_positive, default=9, help="of a traversal (9)")
    sub.add_argument("--pairs", type=_positive, default=24, help="of clips to interpolate between (24)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--out", required=True, help="folder for the page, tables and sounds")
    sub.add_argument("--force", action="store_true", help="replace an earlier result")

    sub = command("fidelity", commands.fidelity)
    sub.add_argument("bundle")
    own_data_options(sub)
    sub.add_argument("--split", default="test", choices=("train", "validation", "test"), help="what is decoded")
    sub.add_argument("--limit", type=_positive, default=200, help="clips decoded at most (200)")
    text = "shares of the latent's variance, as 0.8,0.95"
    sub.add_argument("--fidelities", type=_numbers, default=(0.8, 0.9, 0.95, 0.99), metavar="F,...", help=text)
    sub.add_argument("--samples", type=_positive, default=2, help="clips on the page (2)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--out", required=True, help="folder for the page, curve and sounds")
    sub.add_argument("--force", action="store_true", help="replace an earlier result")

    sub = command("listen", commands.listen)
    sub.add_argument("bundles", nargs="+", metavar="BUNDLE")
    own_data_options(sub)
    sub.add_argument("--split", default="test", choices=("train", "validation", "test"), help="where clips come from")
    sub.add_argument("--clips", type=_positive, default=8, help="how many clips are played (8)")
    sub.add_argument("--trials", type=_positive, default=24, help="of a series; the page can take another number (24)")
    sub.add_argument("--ceiling", action="store_true", help="also the original through the phase search alone")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--out", required=True, help="folder for the page")
    sub.add_argument("--force", action="store_true", help="replace an earlier result")

    sub = command("export", commands.export)
    sub.add_argument("bundle")
    sub.add_argument("folder", metavar="DIR", help="writes DIR/NAME/VERSION/")
    sub.add_argument("--name", help="of the served model; the bundle's by default")
    sub.add_argument("--version", type=_positive, help="the next free one by default")
    targets = ("saved_model", "onnx", "litert")
    text = (
        "saved_model: waveform to waveform, for TF Serving; onnx, litert: encoder and decoder without audio processing"
    )
    sub.add_argument("--target", default="saved_model", choices=targets, help=text)
    kinds = ("float32", "float16", "int8")
    sub.add_argument("--weights", default="float32", choices=kinds, help="how weights are stored")
    sub.add_argument("--force", action="store_true", help="replace an existing version")

    sub = command("deploy", commands.deploy)
    sub.add_argument("folder", metavar="DIR", help="what was exported to; it holds NAME/VERSION")
    sub.add_argument("--label", action="append", default=[], metavar="[MODEL:]LABEL=VERSION", help="as stable=1")
    sub.add_argument("--batching", action="store_true", help="have the server put requests of equal length together")
    sub.add_argument("--image", default=IMAGE, help=f"of TF Serving ({IMAGE})")
    sub.add_argument("--force", action="store_true", help="replace files that were changed")

    sub = command("serve", commands.serve)
    sub.epilog = (
        "Runs tensorflow_model_server where it is on the path; otherwise a stand-in for development, which speaks"
        " the same protocols. New versions are loaded as they appear; SIGTERM and Ctrl-C end it when what has come is"
        " answered."
    )
    sub.add_argument("folder", metavar="DIR", help="where export wrote DIR/NAME/VERSION/; models.config is heeded")
    sub.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all, without authentication (127.0.0.1)"
    )
    sub.add_argument("--rest-port", type=int, default=8501, help="0 for any free one, which is then printed (8501)")
    sub.add_argument("--grpc-port", type=int, default=8500, help="0 for any free one, which is then printed (8500)")
    sub.add_argument("--stand-in", action="store_true", help="run the stand-in though TensorFlow Serving is there")
    sub.add_argument("--poll", type=float, default=1.0, help="seconds between two looks for new versions (1)")
    group = sub.add_argument_group("limits")
    group.add_argument("--max-bytes", type=_positive, default=64 << 20, help="of a request (64 MiB)")
    text = "of sound in a request, sent or to be made (4194304)"
    group.add_argument("--max-samples", type=_positive, default=1 << 22, help=text)
    group.add_argument("--read-timeout", type=float, default=10.0, help="seconds for a request's body to come (10)")
    group.add_argument("--call-timeout", type=float, default=60.0, help="seconds for a request's result (60)")
    group.add_argument("--threads", type=_positive, default=64, help="requests handled at the same time (64)")
    group.add_argument("--op-threads", type=_positive, default=1, help="cores that one operation may use (1)")
    group = sub.add_argument_group(
        "batching",
        "Requests of equal shape that come together are computed together: by default in the stand-in. TensorFlow"
        " Serving does it if asked, and fails requests of unequal length that meet.",
    )
    group.add_argument("--batching", action=argparse.BooleanOptionalAction)
    group.add_argument("--max-batch", type=_positive, default=16, help="waveforms computed together at most (16)")
    group.add_argument(
        "--batch-timeout", type=float, default=0.02, help="seconds to wait for others, where many ask (0.02)"
    )
    group.add_argument("--batch-threads", type=_positive, default=os.cpu_count(), help="batches at a time (the cores)")

    sub = command("call", commands.call)
    sub.add_argument("url", metavar="URL", help="http://HOST:8501/v1/models/NAME or grpc://HOST:8500/NAME, /versions/N")
    sub.add_argument("files", nargs="*", metavar="FILE", help="recordings at any rate; none to see what the model is")
    sub.add_argument("--out", help="folder for the wav files")
    sub.add_argument("--timeout", type=float, default=60.0, help="seconds that one request may take (60)")
    sub.add_argument("--retries", type=int, default=4, help="where there is no answer, or the server is busy (4)")
    sub.add_argument("--chunk", type=float, default=20.0, help="seconds of sound in one request (20)")
    sub.add_argument("--force", action="store_true", help="replace existing files")
    return parser


def _by_dimension(text: str) -> dict[int, float]:
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return {int(dimension): float(value) for dimension, value in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be like 0:1.5,3:0.2, received {text!r}") from None


def _positive(text: str) -> int:
    return whole_number(text, least=1)


def _levels(text: str) -> tuple[int, ...] | None:
    if text in ("all", "none"):
        return None if text == "all" else ()
    return _listed(text, int, "must be all, none, or whole numbers such as 0,2")


def _whole(text: str) -> tuple[int, ...]:
    return _listed(text, int, "must be whole numbers such as 0,1,2")


def _numbers(text: str) -> tuple[float, ...]:
    return _listed(text, number, "must be numbers such as 0.8,0.95")


def _listed(text: str, kind: Callable[[str], Any], expected: str) -> tuple:
    try:
        return tuple(kind(part) for part in text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{expected}, received {text!r}") from None


def _perturbation(text: str) -> str:
    names = [*PERTURBATIONS.split(", "), "worst-case"]
    if text.partition(":")[0] not in names:
        raise argparse.ArgumentTypeError(
            f"must be NAME or NAME:SEVERITY,... with a NAME of {', '.join(names)}, received {text!r} (bundles come "
            "before --perturbation)"
        )
    return text
