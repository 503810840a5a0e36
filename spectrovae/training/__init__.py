"""Training runs: a folder that repeats, resumes and explains a fit."""

from spectrovae.training.fit import fit, repeat, reserved, train
from spectrovae.training.judge import fit_judge
from spectrovae.training.options import FitOptions
from spectrovae.training.precision import best_precision, precision
from spectrovae.training.prior import fit_prior

__all__ = ["FitOptions", "best_precision", "fit", "fit_judge", "fit_prior", "precision", "repeat", "reserved", "train"]
