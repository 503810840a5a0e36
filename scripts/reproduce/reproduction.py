"""What the reproductions share: options, a folder that is continued, figures in tables, verdicts by a stated rule.

OUT/
  settings.json      what it was begun with; fits of other settings are never taken for these
  result.json        figures, verdicts, differences from what is reproduced
  NAME.csv           each table
  report.html        all on a page
  report.md          the same as text, for the project's pages
  .../fits/          bundles; a finished fit is not repeated, a stopped one continues
"""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import spectrovae
from spectrovae import training
from spectrovae.data import Recordings
from spectrovae.errors import InputError, StorageError, TrainingError
from spectrovae.evaluation.report import Cell, Report, Row, number_text
from spectrovae.evaluation.systems import csv_text
from spectrovae.files import as_json, write_json, write_text
from spectrovae.representations import Representation
from spectrovae.study import Trial

SMALL = "Run with --small, to see that it runs: figures and verdicts mean nothing."


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        claim: a statement, in words.
        rule: when it counts as held, in words; ``outcomes`` are computed by it.
        outcomes: whether it held, in each case that the rule names (seeds, sizes); none where nothing was measured.
        because: the figures that decided.
    """

    claim: str
    rule: str
    outcomes: Sequence[bool]
    because: str

    @property
    def text(self) -> str:
        held, cases = sum(map(bool, self.outcomes)), len(self.outcomes)
        if not cases:
            return "not measured"
        return "held" if held == cases else "did not hold" if not held else f"held in {held} of {cases} cases"


@dataclasses.dataclass(frozen=True)
class Table:
    """Flat rows, each with a value for every column.

    Attributes:
        name: of the CSV file.
        columns: heads, with units, by the rows' keys.
    """

    name: str
    caption: str
    columns: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]

    def cells(self) -> list[list[str]]:
        return [[text(row[key]) for key in self.columns] for row in self.rows]


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """Figures and verdicts of one script.

    Attributes:
        title: of the page.
        setting: data and training, in a sentence or two.
        tables: of figures.
        verdicts: by the script's rules.
        differences: from what is reproduced, and what the figures do not say.
    """

    title: str
    setting: str
    tables: Sequence[Table]
    verdicts: Sequence[Verdict]
    differences: Sequence[str]

    def save(self, out: Path, *, small: bool) -> None:
        """Write tables, page and text."""
        setting = f"{SMALL} {self.setting}" if small else self.setting
        result = {
            "kind": "reproduction",
            "spectrovae": spectrovae.__version__,
            "title": self.title,
            "setting": setting,
            "tables": {table.name: [as_json(row) for row in table.rows] for table in self.tables},
            "verdicts": [
                dataclasses.asdict(verdict) | {"outcomes": [bool(o) for o in verdict.outcomes], "verdict": verdict.text}
                for verdict in self.verdicts
            ],
            "differences": list(self.differences),
        }
        write_json(out / "result.json", result)
        for table in self.tables:
            write_text(out / f"{table.name}.csv", csv_text([as_json(row) for row in table.rows]))
        self._page(setting).save(out / "report.html")
        write_text(out / "report.md", self.markdown(setting))

    def _page(self, setting: str) -> Report:
        report = Report(self.title, setting)
        for verdict in self.verdicts:
            report.section(f"{verdict.claim}: {verdict.text}", f"{verdict.because}.")
            report.notes([f"Rule: {verdict.rule}."])
        report.section("Figures")
        for table in self.tables:
            numbers = [[_order(row[key]) for key in table.columns] for row in table.rows]
            rows = [Row([Cell(t, "", n) for t, n in zip(*pair)]) for pair in zip(table.cells(), numbers)]
            report.table(table.caption, list(table.columns.values()), rows)
        report.section("Differences, and what is not said")
        report.notes(self.differences)
        return report

    def markdown(self, setting: str) -> str:
        lines = [f"# {self.title}", "", setting, ""]
        lines += _grid(["claim", "verdict", "because"], [[v.claim, v.text, v.because] for v in self.verdicts])
        lines += ["", "Rules:", "", *(f"- {v.claim}: {v.rule}." for v in self.verdicts)]
        for table in self.tables:
            lines += ["", table.caption, "", *_grid(list(table.columns.values()), table.cells())]
        return "\n".join([*lines, "", *(f"- {difference}" for difference in self.differences)]) + "\n"


def options_parser(description: str, name: str, *, data: str, epochs: int) -> argparse.ArgumentParser:
    """The options that every reproduction has; defaults are the full setting."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=data, help=f"folder, manifest, or toy set ({data})")
    parser.add_argument("--out", type=Path, default=Path("reproductions") / name, help="folder; continued if it exists")
    parser.add_argument(
        "--small", action="store_true", help="the least that runs: toy sounds, tiny networks, one epoch"
    )
    parser.add_argument("--seeds", type=whole, default=(0,), help="of the fits, as 0,1,2")
    parser.add_argument("--epochs", type=int, default=epochs, help=f"of each fit ({epochs})")
    parser.add_argument("--preset", default="small", help="size of the networks (small)")
    return parser


def run(
    work: Callable[[argparse.Namespace], Reproduction],
    parser: argparse.ArgumentParser,
    small: Mapping[str, Any],
    arguments: Sequence[str] | None,
) -> int:
    """Parse options, do the work, write and print what it found; the exit code is that of ``spectrovae``.

    Args:
        small: what ``--small`` sets; options that are given stand above it.
    """
    if parser.parse_args(arguments).small:
        parser.set_defaults(preset="tiny", epochs=1, **small)
    options = parser.parse_args(arguments)
    try:
        claim_folder(options)
        found = work(options)
        found.save(options.out, small=options.small)
    except (InputError, StorageError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print(f"interrupted; the same command continues in {options.out}", file=sys.stderr)
        return 130
    print((options.out / "report.md").read_text(encoding="utf-8"))
    return 0


def claim_folder(options: argparse.Namespace) -> None:
    """Keep the settings in the folder, or compare them with those there; seeds may be added.

    Raises:
        InputError: the folder holds something else, or fits of other settings.
    """
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "seeds")}
    settings = json.loads(json.dumps(settings, default=str))
    path = options.out / "settings.json"
    if path.is_file():
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error}); choose another folder") from error
        changed = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
        if changed:
            raise InputError(
                f"{options.out} was begun with other settings ({', '.join(changed)}); give the same ones to continue, "
                "or choose another folder"
            )
    elif options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise InputError(f"{options.out} exists and is no reproduction; choose another folder")
    write_json(path, settings)


def trials(
    name: str,
    family: str,
    options: argparse.Namespace,
    recordings: Recordings,
    representation: Representation,
    *,
    patience: int = 0,
    learning_rate: float = 1e-3,
    batch_size: int = 32,
    **model: Any,
) -> list[Trial]:
    """A fit of each seed. ``model`` goes to the family, with the preset; patience 0 trains all epochs."""
    return [
        Trial(name, family, seed, functools.partial(
            training.fit, family, recordings, representation,
            options=training.FitOptions(
                epochs=options.epochs, patience=patience, learning_rate=learning_rate, batch_size=batch_size, seed=seed
            ),
            preset=options.preset, reuse=True, **model,
        ))
        for seed in options.seeds
    ]  # fmt: skip


def with_peak(recordings: Recordings, cls: type, **settings: Any) -> Representation:
    """A representation whose dB range ends at the training split's peak, as ``spectrovae fit`` makes it."""
    peak = cls(recordings.sample_rate, **settings).peak_db(recordings.waveforms("train"))
    return cls(recordings.sample_rate, max_db=round(peak, 2), **settings)


def pick(row: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: row[key] for key in keys}


def by_seed(rows: Iterable[Mapping[str, Any]], **wanted: Any) -> dict[int, Mapping[str, Any]]:
    """The rows with these values, by their seed."""
    return {row["seed"]: row for row in rows if all(row[key] == value for key, value in wanted.items())}


def spread(values: Iterable[float]) -> str:
    """Figures of several seeds for a sentence: 3.44, or 3.40 to 3.52."""
    found = sorted(values)
    if not found:
        return "–"
    low, high = text(found[0]), text(found[-1])
    return low if low == high else f"{low} to {high}"


def whole(given: str) -> tuple[int, ...]:
    """``"0,1,2"`` as numbers, for an option."""
    return tuple(int(part) for part in given.split(","))


def text(value: Any) -> str:
    """A figure with the digits that it deserves; a dash for None."""
    if value is None or not isinstance(value, float):
        return "–" if value is None else str(value)
    if 0 < abs(value) < 0.01:
        return f"{value:.2g}".replace("-", "−")
    return number_text(value, 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2)


def _order(value: Any) -> float | None:
    return None if isinstance(value, str | bool) or value is None else float(value)


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]
