"""Measure models beside baselines, disturb their inputs, and report both on a page.

metrics        distances between dB spectrograms, by clip, with bootstrap intervals
baselines      identity, PCA-k and mean
perturbations  disturbances of a dB spectrogram
compare        models side by side
robustness     what becomes of a disturbance
plots, report  pictures, and a self-contained HTML page
"""

from spectrovae.evaluation.compare import compare
from spectrovae.evaluation.plots import plot_loss_curves, spectrogram_figure
from spectrovae.evaluation.robustness import robustness

__all__ = ["compare", "plot_loss_curves", "robustness", "spectrogram_figure"]
