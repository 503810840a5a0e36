"""Measure models beside baselines, disturb their inputs, and report both on a page.

metrics        distances between dB spectrograms, by clip, with bootstrap intervals
sound_metrics  distances between waveforms
judges         classifiers that sounds are played to; mmd, how far apart two sets of what they hear are
paired         tests between models
measure        all of these of systems, clip by clip
baselines      identity, PCA-k and mean
diagnostics    what a latent carries, of any family
disentanglement  whether dimensions are factors: five metrics; ``factors`` takes them of a model
perturbations  disturbances of a dB spectrogram
systems        models and baselines gathered by representation
compare        models side by side
robustness     what becomes of a disturbance
report         a self-contained HTML page, its tables as files; ``players``: sounds equally loud
latent         principal axes, traversals, draws, loss by factor, interpolation of one model's latent
conversion     one voice in another, played to judges; ``leak``, what a latent tells of who speaks
listen         a blind listening test, A/B/X
"""

from spectrovae.evaluation.compare import compare
from spectrovae.evaluation.compare_page import format_comparison
from spectrovae.evaluation.robustness import format_robustness, robustness

__all__ = ["compare", "format_comparison", "format_robustness", "robustness"]
