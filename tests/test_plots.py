"""Pictures that must tell their curves apart."""

import numpy as np

from spectrovae.plots import COLOURS, Curve, curves_figure


def test_a_curve_without_intervals():
    """A single clip has none: None in JSON."""
    curves = [Curve("model", [0.0, 1.0], [2.0, 3.0], [None, None], [None, None])]
    (axes,) = curves_figure(curves, xlabel="s", ylabel="dB").axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [2.0, 3.0])


def test_no_two_curves_of_one_picture_look_alike():
    x = np.arange(3.0)
    curves = [Curve(f"model {n}", x, x + n, x, x, False) for n in range(2 * len(COLOURS) + 1)]
    curves += [Curve(f"reference {n}", x, x, x, x, True) for n in range(3)]
    (axes,) = curves_figure(curves, xlabel="s", ylabel="dB").axes
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.lines]
    assert len(set(looks)) == len(curves)
