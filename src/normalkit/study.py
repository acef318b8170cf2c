"""Ablation studies: each variant with each seed, and one CSV table that says which runs are finished.

The table is all that a study keeps: it is rewritten whole after each run, is meant to be committed, and a study
that is started again skips the runs it holds. `write_report` puts a Markdown table and a figure beside it.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
import platform
import re
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from normalkit.files import atomic_file, check_writable
from normalkit.training import Interrupted, dotted, format_figures
from normalkit.visualize import save_figure, study_figure

__all__ = [
    "StudyRow",
    "Summary",
    "Variant",
    "describe_machine",
    "is_finished",
    "read_study",
    "run_study",
    "study_markdown",
    "summarize",
    "write_report",
]

_FIRST, _LAST = ["variant", "seed", "settings"], ["seconds", "hardware"]
"""The columns about those of the figures; a table that has others is not a study's."""

_Key = tuple[str, str, int]


@dataclass(frozen=True)
class Variant:
    """One member of a study.

    Attributes:
        name: Its line in tables and figures, such as "no batch norm".
        settings: What makes it this variant, and all else that identifies its runs, such as the number of epochs:
            a finished run counts only while they are the same. Strings, finite numbers, booleans, None, lists
            and dicts.
        reported: Figures of the work that is reproduced, to be shown beside ours.

    Raises:
        ValueError: The name is blank or has more than one line.
        TypeError: The settings cannot be written as JSON.
    """

    name: str
    settings: Mapping[str, Any]
    reported: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what a table cannot hold."""
        if not self.name.strip() or not self.name.isprintable():
            raise ValueError(f"name={self.name!r}: wanted one line of text")
        try:
            _canonical(self.settings)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"settings of {self.name!r}: {error}; wanted strings, finite numbers, booleans, None, lists and dicts"
            ) from error

    def folder(self, seed: int) -> str:
        """A name for the folder of a run, which no run of other settings has, such as no-batch-norm-1f0c93d2-seed-0."""
        digest = hashlib.sha256(_canonical(self.settings).encode()).hexdigest()[:8]
        return re.sub(r"\W+", "-", f"{self.name} {digest} seed {seed}").strip("-")


@dataclass(frozen=True)
class StudyRow:
    """A finished run.

    Attributes:
        variant: The variant's name.
        seed: The run's.
        settings: The variant's, as JSON gives them back.
        figures: What the run gave.
        seconds: How long it took.
        hardware: What it ran on; see `describe_machine`.
    """

    variant: str
    seed: int
    settings: Mapping[str, Any]
    figures: Mapping[str, float]
    seconds: float
    hardware: str

    def has_settings(self, settings: Mapping[str, Any]) -> bool:
        """Whether it ran with these settings, under whatever name; 2 and 2.0 are the same."""
        return _canonical(self.settings) == _canonical(settings)


@dataclass(frozen=True)
class Summary:
    """A figure of one variant over the seeds.

    Attributes:
        values: One a run, in order of their seeds.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """None without runs."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation, over n - 1; None for fewer than two runs."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def run_study(
    variants: Sequence[Variant],
    run: Callable[[Variant, int], Mapping[str, float]],
    *,
    seeds: Sequence[int],
    table: str | Path,
    report: Callable[[list[StudyRow]], object] | None = None,
) -> tuple[list[StudyRow], list[str]]:
    """Do the runs of a study that its table does not hold yet.

    All variants run with the first seed, then with the next, so that a study which is stopped has whole seeds. A run
    that fails is reported and leaves the others alone; it has no row, so it is tried anew when the study is started
    again. Ctrl-C, and what `fit` raises for it, end the study; rows are written as soon as their runs end.

    Args:
        variants: Of different names.
        run: Trains and scores a variant with a seed; its figures are finite numbers. It may give `seconds` too, in
            place of the time that the call took: that of a resumed run is but a part.
        seeds: At least one, none twice.
        table: The CSV file; it and its folder are made if missing. Rows of other variants, settings and seeds in it
            are kept.
        report: Is given all rows of the table after each run; once if none ended and some were finished earlier.

    Returns:
        The finished rows of these variants and seeds, in the order of running; and a line for each run that failed,
        for the program to exit with 1 if there are any.

    Raises:
        ValueError: The variants or seeds are none or repeat, or the table is not a study's (see `read_study`).
        OSError: The table cannot be read or written; this is tried before the first run.

    Examples:
        >>> import tempfile
        >>> table = Path(tempfile.mkdtemp()) / "widths.csv"
        >>> variants = [Variant("narrow", {"width": 8}), Variant("wide", {"width": 16})]
        >>> run = lambda variant, seed: {"accuracy": 80.0 + variant.settings["width"] + seed, "seconds": 2.5}
        >>> rows, failures = run_study(variants, run, seeds=[0], table=table)
        [1/2] narrow, seed 0: running
        [1/2] narrow, seed 0: accuracy 88.00, 2 s
        [2/2] wide, seed 0: running
        [2/2] wide, seed 0: accuracy 96.00, 2 s
        >>> _ = run_study(variants, run, seeds=[0], table=table)
        [1/2] narrow, seed 0: finished earlier: accuracy 88.00
        [2/2] wide, seed 0: finished earlier: accuracy 96.00
    """
    _check_grid(variants, seeds)
    table, grid = Path(table), list(itertools.product(seeds, variants))
    keys = [_key(variant.name, variant.settings, seed) for seed, variant in grid]
    finished, reported = _finished(table), False
    if any(key not in finished for key in keys):
        check_writable(table.parent)
        if table.exists():
            _write(table, finished.values())
    failures = []
    for number, (key, (seed, variant)) in enumerate(zip(keys, grid, strict=True), 1):
        what = f"{variant.name}, seed {seed}"
        label = f"[{number}/{len(grid)}] {what}"
        if key in finished:
            print(f"{label}: finished earlier: {format_figures(finished[key].figures)}", flush=True)
            continue
        print(f"{label}: running{_other_settings(finished.values(), variant, seed)}", flush=True)
        try:
            row = _timed(run, variant, seed)
        except Interrupted:
            raise
        except Exception as error:
            failures.append(f"{what}: {_reason(error)}")
            print(f"{label}: failed: {_reason(error)}", file=sys.stderr, flush=True)
            continue
        print(f"{label}: {format_figures(row.figures)}, {row.seconds:.0f} s", flush=True)
        # Read anew: another process may have written in the meantime.
        finished = _finished(table)
        finished.setdefault(key, row)
        _write(table, finished.values())
        if report is not None:
            report(list(finished.values()))
            reported = True
    if report is not None and not reported and any(key in finished for key in keys):
        report(list(finished.values()))
    if failures:
        head = f"{len(failures)} of {len(grid)} runs failed; the others are kept in {table}, and skipped next time:"
        print(head, *failures, sep="\n  ", file=sys.stderr, flush=True)
    return [finished[key] for key in keys if key in finished], failures


def is_finished(variants: Sequence[Variant], *, seeds: Sequence[int], table: str | Path) -> bool:
    """Whether a study's table holds all of its runs, so that no data need be read for them.

    Args:
        variants: As for `run_study`, and so are `seeds` and `table`.
        seeds: One run of each variant for each.
        table: The CSV file; one that is missing holds none.

    Raises:
        ValueError: The variants or seeds are none or repeat, or the table is not a study's (see `read_study`).
        OSError: The table cannot be read.
    """
    _check_grid(variants, seeds)
    finished = _finished(Path(table))
    return all(
        _key(variant.name, variant.settings, seed) in finished for seed, variant in itertools.product(seeds, variants)
    )


def read_study(table: str | Path) -> list[StudyRow]:
    """The rows of a study's table.

    Args:
        table: The CSV file: `variant`, `seed` and `settings` (a JSON object), the figures, `seconds`, `hardware`.

    Returns:
        In the file's order; cells of figures that were left empty are left out.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: It has other columns, as a file of another version would; a cell is not what its column wants; or
            a run comes twice. The message names the file, the line and the mend.
    """
    lines: dict[_Key, int] = {}
    rows = []
    # A spreadsheet may have put a mark before the first byte.
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            _check_header(header)
            for cells in filter(None, reader):
                row = _parse(header, cells)
                first = lines.setdefault(_key(row.variant, row.settings, row.seed), reader.line_num)
                if first != reader.line_num:
                    raise ValueError(f"the run of line {first} again ({row.variant}, seed {row.seed}); delete one")
                rows.append(row)
        except UnicodeDecodeError as error:
            raise ValueError(f"{table} is no UTF-8 text ({error}); restore it, or move it away") from error
        except csv.Error as error:
            raise ValueError(
                f"{table}, line {reader.line_num}: no CSV ({error}); mend the line, or delete it to run it anew"
            ) from error
        except ValueError as error:
            raise ValueError(f"{table}, line {max(reader.line_num, 1)}: {error}") from error
    return rows


def summarize(
    rows: Iterable[StudyRow], variants: Sequence[Variant], figures: Iterable[str]
) -> dict[str, dict[str, Summary]]:
    """Each variant's figures over the seeds.

    Args:
        rows: As `run_study` or `read_study` gives them; those of other variants or settings are left out.
        variants: In the order wanted.
        figures: The names of the figures.

    Returns:
        Summaries by the variant's name and the figure's; a variant without runs has empty ones.

    Examples:
        >>> rows = [StudyRow("wide", seed, {}, {"accuracy": 90.0 + seed}, 2.5, "") for seed in (0, 1, 2)]
        >>> accuracy = summarize(rows, [Variant("wide", {})], ["accuracy"])["wide"]["accuracy"]
        >>> accuracy.mean, accuracy.std
        (91.0, 1.0)
    """
    by_seed = sorted(rows, key=lambda row: row.seed)
    figures = list(figures)
    return {
        variant.name: {
            name: Summary(tuple(row.figures[name] for row in by_seed if _is_of(row, variant) and name in row.figures))
            for name in figures
        }
        for variant in variants
    }


def study_markdown(
    rows: Iterable[StudyRow],
    variants: Sequence[Variant],
    *,
    figures: Mapping[str, str],
    lower: Collection[str] = (),
    digits: int = 2,
) -> str:
    """A Markdown table of a study: mean ± standard deviation over the seeds, the best mean of each column in bold.

    An arrow in the heading says whether high or low values are good. Where a variant has `reported` figures, they
    stand in a column beside ours.

    Args:
        rows: As `run_study` or `read_study` gives them.
        variants: One line each, in this order.
        figures: The figures to show, and their headings.
        lower: The figures whose low values are good.
        digits: Decimals.

    Raises:
        ValueError: `lower` names a figure that is not shown.

    Examples:
        >>> rows = [StudyRow("wide", seed, {}, {"accuracy": 90.0 + seed}, 2.5, "") for seed in (0, 1, 2)]
        >>> variants = [Variant("wide", {}, reported={"accuracy": 91.4}), Variant("narrow", {})]
        >>> print(study_markdown(rows, variants, figures={"accuracy": "accuracy (%)"}), end="")
        | variant |   accuracy (%) ↑ | reported | seeds |
        |:--------|-----------------:|---------:|------:|
        | wide    | **91.00 ± 1.00** |    91.40 |     3 |
        | narrow  |                - |        - |     0 |
    """
    headings = _headings(figures, lower)
    summary = summarize(rows, variants, figures)
    columns = [["variant", *(variant.name.replace("|", r"\|") for variant in variants)]]
    for name, heading in headings.items():
        means = [summary[variant.name][name].mean for variant in variants]
        best = (min if name in lower else max)((mean for mean in means if mean is not None), default=None)
        cells = [heading]
        for variant, mean in zip(variants, means, strict=True):
            std = summary[variant.name][name].std
            cell = _decimals(mean, digits) + ("" if std is None else f" ± {_decimals(std, digits)}")
            # Means that read alike are alike.
            is_best = mean is not None and _decimals(mean, digits) == _decimals(best, digits)
            cells.append(f"**{cell}**" if is_best else cell)
        columns.append(cells)
        if any(name in variant.reported for variant in variants):
            columns.append(["reported", *(_decimals(variant.reported.get(name), digits) for variant in variants)])
    seeds = [max((len(one.values) for one in summary[variant.name].values()), default=0) for variant in variants]
    columns.append(["seeds", *map(str, seeds)])
    return _aligned(columns)


def write_report(
    table: str | Path,
    rows: Sequence[StudyRow],
    variants: Sequence[Variant],
    *,
    figures: Mapping[str, str],
    lower: Collection[str] = (),
    digits: int = 2,
    title: str | None = None,
) -> None:
    """Write a study's Markdown table and its figure beside the CSV table: the same name, with .md and .png.

    Args:
        table: The study's CSV file; it is not read.
        rows: As `run_study` or `read_study` gives them.
        variants: As for `study_markdown`, and so are `figures`, `lower` and `digits`.
        figures: One panel each.
        lower: The figures whose low values are good.
        digits: Decimals.
        title: Stands above the figure.

    Raises:
        ValueError: No row is of these variants, or `lower` names a figure that is not shown.
        OSError: A file cannot be written.
        ImportError: matplotlib is not installed.
    """
    headings = _headings(figures, lower)
    summary = summarize(rows, variants, figures)
    if not any(one.values for of_variant in summary.values() for one in of_variant.values()):
        raise ValueError(f"rows: none has {', '.join(figures)} of these variants; nothing to report before a run ends")
    with atomic_file(Path(table).with_suffix(".md")) as path:
        path.write_text(study_markdown(rows, variants, figures=figures, lower=lower, digits=digits), encoding="utf-8")
    drawn = study_figure(
        [variant.name for variant in variants],
        {headings[name]: [summary[variant.name][name].values for variant in variants] for name in figures},
        reported={headings[name]: [variant.reported.get(name) for variant in variants] for name in figures},
        title=title,
    )
    save_figure(drawn, Path(table).with_suffix(".png"))


def describe_machine() -> str:
    """What a run's time depends on: the GPU, or else the processor, the threads, and torch's version."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        named = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
        device = named[1] if named else platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{device}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}"


def _check_grid(variants: Sequence[Variant], seeds: Sequence[int]) -> None:
    grid: dict[str, list[Any]] = {"variants": [variant.name for variant in variants], "seeds": list(seeds)}
    for argument, given in grid.items():
        if not given:
            raise ValueError(f"{argument} is empty: wanted at least one")
        twice = next((one for one in given if given.count(one) > 1), None)
        if twice is not None:
            raise ValueError(f"{argument}: {twice} comes more than once; wanted each once")


def _timed(run: Callable[[Variant, int], Mapping[str, float]], variant: Variant, seed: int) -> StudyRow:
    start = time.monotonic()
    figures = dict(run(variant, seed))
    seconds = float(figures.pop("seconds", time.monotonic() - start))
    if not figures:
        raise ValueError("the run gave no figures; wanted a mapping such as {'accuracy': 91.2}")
    for name, value in figures.items():
        if name in _FIRST + _LAST:
            raise ValueError(f"the run gave a figure named {name!r}, as a column is; choose another name")
        if not math.isfinite(value):
            raise ValueError(f"the run gave {name}={value}; wanted a finite number")
    numbers = {name: float(value) for name, value in figures.items()}
    settings = json.loads(_canonical(variant.settings))
    return StudyRow(variant.name, seed, settings, numbers, round(seconds, 1), describe_machine())


def _reason(error: Exception) -> str:
    """Class, message and place of an error, in one line."""
    trace = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(trace[-1].filename).name}, line {trace[-1].lineno})" if trace else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _canonical(settings: Mapping[str, Any]) -> str:
    return json.dumps(_whole({**settings}), sort_keys=True, allow_nan=False)


def _whole(value: Any) -> Any:
    """Whole numbers as integers, so that 5.0 on a command line is the 5 of a default."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _whole(one) for key, one in value.items()}
    return [_whole(one) for one in value] if isinstance(value, list | tuple) else value


def _key(name: str, settings: Mapping[str, Any], seed: int) -> _Key:
    return name, _canonical(settings), seed


def _is_of(row: StudyRow, variant: Variant) -> bool:
    return row.variant == variant.name and row.has_settings(variant.settings)


def _other_settings(rows: Iterable[StudyRow], variant: Variant, seed: int) -> str:
    """Why a run that the table has is done again: in what the one most like it differs; empty if it has none."""

    def facts(settings: Mapping[str, Any]) -> set[tuple[str, str]]:
        return {(name, json.dumps(value)) for name, value in dotted(json.loads(_canonical(settings)))}

    wanted = facts(variant.settings)
    others = [wanted ^ facts(row.settings) for row in rows if (row.variant, row.seed) == (variant.name, seed)]
    if not others:
        return ""
    return f"; the table has it with another {', '.join(sorted({name for name, _ in min(others, key=len)}))}"


def _finished(table: Path) -> dict[_Key, StudyRow]:
    try:
        return {_key(row.variant, row.settings, row.seed): row for row in read_study(table)}
    except FileNotFoundError:
        return {}


def _write(table: Path, rows: Collection[StudyRow]) -> None:
    figures = list(dict.fromkeys(itertools.chain.from_iterable(row.figures for row in rows)))
    with atomic_file(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*_FIRST, *figures, *_LAST], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            run = {"variant": row.variant, "seed": row.seed, "settings": _canonical(row.settings)}
            writer.writerow({**run, **row.figures, "seconds": row.seconds, "hardware": row.hardware})


def _check_header(header: list[str]) -> None:
    known = header[:3] == _FIRST and header[-2:] == _LAST
    if not known or len(set(header)) < len(header):
        raise ValueError(
            f"the columns are {', '.join(header) or 'missing'}; wanted {', '.join(_FIRST)}, the figures, "
            f"{', '.join(_LAST)}, each once. A table of something else, or of another version: move it away"
        )


def _parse(header: list[str], cells: list[str]) -> StudyRow:
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells, and {len(header)} columns; mend the line, or delete it to run it anew")
    cell = dict(zip(header, cells, strict=True))

    def read(name: str, kind: Callable[[str], Any], wanted: str) -> Any:
        try:
            return kind(cell[name])
        except (ValueError, TypeError):
            message = f"{name}={cell[name]!r}: wanted {wanted}; mend the line, or delete it to run it anew"
            raise ValueError(message) from None

    return StudyRow(
        cell["variant"],
        read("seed", int, "a whole number"),
        read("settings", lambda text: json.loads(_canonical(json.loads(text))), "a JSON object"),
        {name: read(name, _finite, "a finite number") for name in header[3:-2] if cell[name]},
        read("seconds", _finite, "a finite number"),
        cell["hardware"],
    )


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text)


def _headings(figures: Mapping[str, str], lower: Collection[str]) -> dict[str, str]:
    unknown = sorted(set(lower) - set(figures))
    if unknown:
        raise ValueError(f"lower: {', '.join(unknown)} is not among the figures {', '.join(figures)}")
    return {name: f"{heading} {'↓' if name in lower else '↑'}" for name, heading in figures.items()}


def _decimals(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _aligned(columns: list[list[str]]) -> str:
    """The first column to the left, the others to the right, under headings; also in the raw text."""
    widths = [max(map(len, column)) for column in columns]
    rule = ["-" * (width + 1) + ":" for width in widths]
    rule[0] = rule[0][::-1]
    lines = [f"|{'|'.join(rule)}|"]
    for cells in zip(*columns, strict=True):
        first, *others = zip(cells, widths, strict=True)
        texts = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        lines.append(f"| {' | '.join(texts)} |")
    # The heading stands above the rule.
    lines[:2] = lines[1::-1]
    return "\n".join(lines) + "\n"
