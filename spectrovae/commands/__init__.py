"""What each sub-command of ``spectrovae`` does with its parsed options.

Every command returns what ``--json`` prints, and the text for a person. Work belongs on the floors below; modules are
imported where they are used, so that ``spectrovae --help`` is quick.
"""

from spectrovae.commands.drawing import generate, interpolate
from spectrovae.commands.evaluation import compare, disentangle, fidelity, latent, listen, robustness
from spectrovae.commands.models import diagnose, fit, fit_judge, fit_prior, reconstruct, study, transfer, verify
from spectrovae.commands.serving import call, deploy, export, serve
from spectrovae.commands.sounds import data_fsdd, data_scan, doctor, invert, transform
from spectrovae.commands.voices import convert, judge_conversion

__all__ = [
    "doctor", "data_scan", "data_fsdd", "transform", "invert",
    "fit", "fit_judge", "fit_prior", "study", "reconstruct", "transfer", "convert", "generate", "interpolate",
    "verify", "diagnose", "compare", "robustness", "listen", "latent", "fidelity", "disentangle", "judge_conversion",
    "export", "deploy", "serve", "call",
]  # fmt: skip
