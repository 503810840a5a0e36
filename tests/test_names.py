"""Names of bundles, speakers and trials that collide, or mean something to a disk, a spreadsheet or a figure."""

import csv
import os

import numpy as np
import pytest
from test_compare import OPTIONS, codec, recordings  # noqa: F401

from spectrovae import plots
from spectrovae.evaluation import compare, format_comparison, systems
from spectrovae.evaluation.latent_figures import Label, boxes_figure, map_figure, mosaic_figure, spectrum_figure
from spectrovae.evaluation.report import Cell, Report, Row, Table

LONG = "ein sehr langer Name " * 12
NAMES = [
    "ceiling", "mean", "identity", "original", "input", "PCA-2", "模型一", "模型二", "vae (2)", "vae_2", "VAE 2",
    "vae_2", "a$_$b", "cost $5 and $6", r"\$", "_hidden",
    LONG + "a", LONG + "b", "CON", "nul.wav", "<b>bold</b>", "=1+1", "-x",
    "é", "e\N{COMBINING ACUTE ACCENT}", "हिन्दी", "..", "/", "", "\udcff\udcfe", "a\nb", "Ünïcödé", "😀", "😀😀",
]  # fmt: skip


def test_every_name_is_shown_and_written_under_one_of_its_own(tmp_path):
    taken: set[str] = set()
    shown = [systems.unique_name(name, taken) for name in NAMES]
    stems = systems.unique_stems(NAMES)
    for found in (shown, stems):
        assert len({name.casefold() for name in found}) == len(NAMES)
    for name, stem in zip(NAMES, stems):
        assert len(stem.encode()) <= systems.STEM_BYTES + 3
        assert not set(stem) & set('<>:"/\\|?*\n ')
        assert stem.casefold().split(".")[0] not in ("con", "nul")
        (tmp_path / f"{stem}.wav").write_text(name, errors="replace")
    assert len(os.listdir(tmp_path)) == len(NAMES)
    assert systems.file_stem("模型一") == "模型一"
    assert systems.file_stem("हिन्दी") == "हिन्दी"
    "".join(shown).encode()  # can be written


def test_results_of_bundles_whose_names_collide_are_not_mixed(recordings, tmp_path, monkeypatch):  # noqa: F811
    """Each model has another gain, by which its row and its sounds are known."""
    monkeypatch.setattr(systems.System, "clips_per_second", lambda self, db: 1.0)
    names = ["ceiling", "mean", "identity", "PCA-2", "模型一", "模型二", "vae (2)", "vae_2", "a$_$b", "=1+1", "vae_2"]
    gains = np.linspace(0.5, 1.0, len(names))
    models = [codec(gain, name) for gain, name in zip(gains, names)]
    result = compare(models, recordings, tmp_path / "out", samples=1, limit=2, **OPTIONS | {"resamples": 20})
    rows = [row for row in result["rows"] if row["kind"] == "model"]
    assert len({row["name"] for row in result["rows"]}) == len(result["rows"])
    errors = [row["rmse_db"] for row in rows]
    np.testing.assert_allclose(errors, errors[0] * (1.0 - gains) / 0.5, atol=1e-4)  # features are 0 at the floor
    [mean] = [row for row in result["rows"] if (row["name"], row["kind"]) == ("mean", "baseline")]
    assert mean["rmse_db"] > 1.0
    [ceiling] = [row for row in result["rows"] if row["kind"] == "ceiling"]
    assert (ceiling["name"], ceiling["rmse_db"]) == ("ceiling", None)
    sounds = tmp_path / "out" / "samples"
    assert len(list((sounds / "generated").iterdir())) == len(names) + 1
    assert len(list((sounds / "modified").iterdir())) == len(names) + 1
    with open(tmp_path / "out" / "compare.csv", newline="", encoding="utf-8") as stream:
        written = [row["name"] for row in csv.DictReader(stream)]
    assert "'=1+1" in written
    assert "模型一" in format_comparison(result)


def test_representations_that_differ_in_what_no_label_says_are_kept_apart(recordings, tmp_path, monkeypatch):  # noqa: F811
    from spectrovae.codec import Codec
    from spectrovae.representations import LogSTFT

    monkeypatch.setattr(systems.System, "clips_per_second", lambda self, db: 1.0)
    first = codec(0.5, "first")
    other = LogSTFT(8000, n_fft=64, hop_length=32, phase_iterations=5)
    second = Codec(other, first.encoder, first.decoder, name="second")
    assert systems.label(other) == systems.label(first.representation)
    result = compare([first, second], recordings, tmp_path / "out", samples=0, limit=2, **OPTIONS | {"resamples": 20})
    labels = [found["label"] for found in result["representations"]]
    assert labels == [systems.label(other), f"{systems.label(other)} (2)"]
    assert [row["representation"] for row in result["rows"] if row["kind"] == "model"] == labels


def test_figures_are_drawn_whatever_the_names():
    points, values = np.random.default_rng(0).normal(size=(len(NAMES), 2)), np.arange(len(NAMES))
    printable = [name if name.isprintable() else "?" for name in NAMES]
    labels = Label(r"$x_", np.array(printable))
    curves = [plots.Curve(name, [0, 1], [0, 1], [0, 1], [0, 1]) for name in printable]
    level = [{"name": "$a_$b", "rmse_db": 1.0}]
    figures = [
        plots.curves_figure(curves, xlabel="$a_$", ylabel=r"$\$"),
        plots.rate_figure({name: [(8.0, 1.0)] for name in printable}, {"$_$": ([1, 2], [3, 4])}, level),
        spectrum_figure({name: [0.5, 0.5] for name in printable}),
        map_figure(points, [0.5, 0.4], labels),
        mosaic_figure(np.zeros((1, 2, 8, 8)), ["$_$"], ["$_$", "$"], min_db=-1, max_db=0, xlabel="$_$", ylabel="$$"),
        boxes_figure(dict.fromkeys(printable, values[:3]), xlabel="$_$", ylabel="$$"),
    ]
    for figure in figures:
        assert plots.png(figure, dots_per_inch=20)
    [legend] = figures[0].legends
    assert len(legend.get_texts()) == len(NAMES)


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_name_with_an_underscore_or_dollars_is_drawn_as_it_is():
    figure = plots.curves_figure([plots.Curve("_a$1$", [0, 1], [0, 1], [0, 1], [0, 1])], xlabel="x", ylabel="y")
    [legend] = figure.legends
    plots.png(figure, dots_per_inch=20)
    assert [text.get_text().strip() for text in legend.get_texts()] == [r"_a\$1\$"]
    layout, _, _ = legend.get_texts()[0]._get_layout(figure.canvas.get_renderer())[:3], None, None
    assert layout


def test_tables_keep_spreadsheets_and_disks_safe(tmp_path):
    cells = ["=1+1", "+1", "-1", "@x", "\t=1", "plain", "\udcff"]
    rows = [Row([Cell(text), Cell("−2", "", -2.0)]) for text in cells]
    report = Report("A page")
    report.table("<b>=A table</b>", ("label", "figure"), rows)
    report.save(tmp_path / "report.html")
    [path] = (tmp_path / "tables").glob("*.csv")
    with open(path, newline="", encoding="utf-8") as stream:
        written = list(csv.DictReader(stream))
    assert [row["label"] for row in written] == [*(f"'{text}" for text in cells[:5]), "plain", "?"]
    assert {row["figure"] for row in written} == {"-2.0"}
    assert Table("a", "b", ("x", "X", "x"), [Row([Cell("1"), Cell("2"), Cell("3")])]).records()[0] == [
        "x", "X (2)", "x (3)",
    ]  # fmt: skip


def test_a_page_that_is_written_anew_leaves_no_tables_of_the_old_one(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "notes.txt").write_text("mine")
    for captions in (("one", "two", "three"), ("one",), ()):
        report = Report("A page")
        for caption in captions:
            report.table(caption, ("x",), [Row([Cell("1")])])
        report.save(tmp_path / "report.html")
        assert len(list((tmp_path / "tables").glob("*.csv"))) == len(captions)
    assert (tmp_path / "tables" / "notes.txt").read_text() == "mine"
