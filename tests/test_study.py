"""Studies: what is run, skipped and kept is counted; the statistics against numpy, the files against csv and json."""

import contextlib
import csv
import json
import math
import os
import re
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from normalkit.study import (
    StudyRow,
    Variant,
    describe_machine,
    is_finished,
    read_study,
    run_study,
    study_markdown,
    summarize,
    write_report,
)
from normalkit.training import Interrupted

WIDE, NARROW = Variant("wide", {"width": 16, "epochs": 2}), Variant("narrow, thin", {"width": 8, "epochs": 2})


class Runs:
    """A run that notes its calls, and does at a call what `instead` says."""

    def __init__(self, instead=None):
        self.calls, self.instead = [], instead or {}

    def __call__(self, variant, seed):
        self.calls.append((variant.name, seed))
        if (variant.name, seed) not in self.instead:
            return {"accuracy": variant.settings["width"] + seed / 3}
        given = self.instead[variant.name, seed]
        if isinstance(given, BaseException):
            raise given
        return given


def cells(table):
    with open(table, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_each_variant_runs_with_each_seed_in_whole_seeds(tmp_path, capsys):
    run, table = Runs(), tmp_path / "results" / "widths.csv"
    rows, failures = run_study([WIDE, NARROW], run, seeds=[3, 0], table=table)
    order = [("wide", 3), ("narrow, thin", 3), ("wide", 0), ("narrow, thin", 0)]
    assert run.calls == order
    assert failures == []
    assert rows == read_study(table)
    assert [(row["variant"], int(row["seed"])) for row in cells(table)] == order
    assert list(cells(table)[0]) == ["variant", "seed", "settings", "accuracy", "seconds", "hardware"]
    assert [row["settings"] for row in cells(table)[:2]] == ['{"epochs": 2, "width": 16}', '{"epochs": 2, "width": 8}']
    # Every bit of a figure is kept.
    assert [float(row["accuracy"]) for row in cells(table)] == [16 + 1, 8 + 1, 16.0, 8.0]
    assert table.read_bytes().count(b"\r") == 0
    assert names(table.parent) == ["widths.csv"]
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "[1/4] wide, seed 3: running"
    assert out[-1].startswith("[4/4] narrow, thin, seed 0: accuracy 8.00, ")


def test_a_second_start_runs_what_is_new_and_leaves_the_file_alone_if_nothing_is(tmp_path, capsys):
    table = tmp_path / "widths.csv"
    first, _ = run_study([WIDE], Runs(), seeds=[0, 1], table=table)
    run = Runs()
    rows, _ = run_study([WIDE, NARROW], run, seeds=[1, 2], table=table)
    assert run.calls == [("narrow, thin", 1), ("wide", 2), ("narrow, thin", 2)]
    assert [(row.variant, row.seed) for row in rows] == [("wide", 1), *run.calls]
    assert read_study(table) == [*first, *rows[1:]]
    assert "[1/4] wide, seed 1: finished earlier: accuracy 16.33" in capsys.readouterr().out
    before = (table.read_bytes(), table.stat().st_mtime_ns, table.stat().st_ino)
    run_study([WIDE, NARROW], run, seeds=[1, 2], table=table)
    assert len(run.calls) == 3
    assert (table.read_bytes(), table.stat().st_mtime_ns, table.stat().st_ino) == before


@pytest.mark.parametrize(
    ("settings", "runs"),
    [
        ({"epochs": 2, "width": 16}, 0),
        ({"epochs": 3, "width": 16}, 1),
        ({"epochs": 2, "width": 16, "more": None}, 1),
        # As a command line gives what is a whole number by default.
        ({"width": 16, "epochs": 2.0}, 0),
        ({"width": 16, "epochs": 2.5}, 1),
        ({"width": 16, "epochs": True}, 1),
    ],
)
def test_a_finished_run_counts_only_with_the_same_settings(tmp_path, settings, runs):
    table = tmp_path / "widths.csv"
    (old,), _ = run_study([WIDE], Runs(), seeds=[0], table=table)
    run = Runs()
    rows, _ = run_study([Variant("wide", settings)], run, seeds=[0], table=table)
    assert len(run.calls) == runs
    assert rows[0].settings == settings
    assert read_study(table) == ([old, *rows] if runs else [old])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 3, "width": 16, "net": {"head": "flatten", "norm": None}}, "net.head"),
        ({"epochs": 3, "width": 16.0, "net": {"head": "pool"}}, "net.norm"),
        ({"epochs": 2, "width": 4, "more": True}, "epochs, more, net.head, net.norm, width"),
    ],
)
def test_a_run_that_is_done_again_says_what_is_new(tmp_path, capsys, settings, said):
    table = tmp_path / "widths.csv"
    old = {"width": 16, "net": {"head": "pool", "norm": None}}
    for epochs in (1, 3):
        run_study([Variant("wide", {**old, "epochs": epochs})], Runs(), seeds=[0], table=table)
    capsys.readouterr()
    run_study([Variant("wide", settings)], Runs(), seeds=[0, 1], table=table)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"[1/2] wide, seed 0: running; the table has it with another {said}"
    assert lines[2] == "[2/2] wide, seed 1: running"


def test_a_study_is_finished_when_its_table_has_every_run(tmp_path):
    table = tmp_path / "widths.csv"
    assert not is_finished([WIDE], seeds=[0], table=table)
    run_study([WIDE, NARROW], Runs({("wide", 1): ValueError("too wide")}), seeds=[0, 1], table=table)
    assert is_finished([WIDE, NARROW], seeds=[0], table=table)
    assert is_finished([NARROW], seeds=[1, 0], table=table)
    assert not is_finished([WIDE, NARROW], seeds=[0, 1], table=table)
    assert not is_finished([Variant("wide", {**WIDE.settings, "epochs": 3})], seeds=[0], table=table)
    with pytest.raises(ValueError, match="seeds is empty"):
        is_finished([WIDE], seeds=[], table=table)
    table.write_text("epoch,loss\n")
    with pytest.raises(ValueError, match="another version"):
        is_finished([WIDE], seeds=[0], table=table)


def test_settings_are_compared_as_json_and_not_by_their_spelling(tmp_path):
    table = tmp_path / "skips.csv"
    run_study(
        [Variant("two", {"skips": (1, 2), "name": "é"})], Runs({("two", 0): {"mean": 30.0}}), seeds=[0], table=table
    )
    written = table.read_text()
    assert '""skips"": [1, 2]' in written
    table.write_text(written.replace('""skips"": [1, 2]', '""skips"":[1,2]'))
    again = Runs()
    run_study([Variant("two", {"name": "é", "skips": [1, 2]})], again, seeds=[0], table=table)
    assert again.calls == []


def test_a_failed_run_is_reported_and_costs_the_others_nothing(tmp_path, capsys):
    run = Runs({("wide", 0): ValueError("width=16:\n too wide"), ("narrow, thin", 1): RuntimeError("out of memory")})
    table = tmp_path / "widths.csv"
    rows, failures = run_study([WIDE, NARROW], run, seeds=[0, 1], table=table)
    assert len(run.calls) == 4
    assert [(row.variant, row.seed) for row in rows] == [("narrow, thin", 0), ("wide", 1)]
    assert rows == read_study(table)
    assert failures[0].startswith("wide, seed 0: ValueError: width=16: too wide (test_study.py, line ")
    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == f"[1/4] wide, seed 0: failed: {failures[0].partition(': ')[2]}"
    assert errors[2].startswith(f"2 of 4 runs failed; the others are kept in {table}")
    assert errors[3:] == [f"  {failure}" for failure in failures]
    mended = Runs()
    assert len(run_study([WIDE, NARROW], mended, seeds=[0, 1], table=table)[0]) == 4
    assert mended.calls == [("wide", 0), ("narrow, thin", 1)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "gave no figures"),
        ({"seconds": 3}, "gave no figures"),
        (None, "TypeError"),
        ({"mean": math.nan}, "mean=nan; wanted a finite number"),
        ({"mean": "high"}, "TypeError"),
        ({"hardware": 3}, "named 'hardware'"),
    ],
)
def test_figures_that_a_table_cannot_hold_are_a_failure_of_their_run(tmp_path, given, message):
    rows, failures = run_study([WIDE, NARROW], Runs({("wide", 0): given}), seeds=[0], table=tmp_path / "a.csv")
    assert [row.variant for row in rows] == ["narrow, thin"]
    assert len(failures) == 1
    assert message in failures[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), "interrupted"])
def test_a_stopped_study_keeps_its_finished_runs(tmp_path, error):
    stop = Interrupted(signal.SIGINT, tmp_path) if error == "interrupted" else error
    run, table = Runs({("wide", 1): stop}), tmp_path / "widths.csv"
    with pytest.raises(type(stop)):
        run_study([WIDE, NARROW], run, seeds=[0, 1], table=table)
    assert [(row["variant"], row["seed"]) for row in cells(table)] == [("wide", "0"), ("narrow, thin", "0")]
    again = Runs()
    run_study([WIDE, NARROW], again, seeds=[0, 1], table=table)
    assert again.calls == [("wide", 1), ("narrow, thin", 1)]


def test_a_report_is_made_after_each_run_and_of_a_finished_study(tmp_path):
    reports, table = [], tmp_path / "widths.csv"

    def study(run, seeds=(0,)):
        reports.clear()
        with contextlib.suppress(KeyboardInterrupt):
            run_study(
                [WIDE, NARROW],
                run,
                seeds=seeds,
                table=table,
                report=lambda rows: reports.append([(row.variant, row.seed) for row in rows]),
            )
        return reports

    wide, narrow = ("wide", 0), ("narrow, thin", 0)
    assert study(Runs({wide: ValueError("too wide"), narrow: ValueError("too narrow")})) == []
    assert study(Runs({narrow: KeyboardInterrupt()})) == [[wide]]
    assert study(Runs({narrow: ValueError("too narrow")})) == [[wide]]
    assert study(Runs()) == [[wide, narrow]]
    assert study(Runs()) == [[wide, narrow]]
    assert study(Runs(), (0, 1)) == [[wide, narrow, ("wide", 1)], [wide, narrow, ("wide", 1), ("narrow, thin", 1)]]


def test_rows_of_other_figures_stand_in_one_table(tmp_path):
    table = tmp_path / "both.csv"
    run = Runs({("wide", 0): {"mean": np.float32(30.5), "11.25": torch.tensor(40.0), "seconds": 7.25}})
    run_study([WIDE, NARROW], run, seeds=[0], table=table)
    assert [row.figures for row in read_study(table)] == [{"mean": 30.5, "11.25": 40.0}, {"accuracy": 8.0}]
    assert cells(table)[0]["seconds"] == "7.2"
    assert cells(table)[1]["mean"] == ""
    assert list(cells(table)[0])[3:6] == ["mean", "11.25", "accuracy"]


def test_rows_which_another_process_adds_during_a_run_are_kept(tmp_path):
    table = tmp_path / "widths.csv"

    def run(variant, seed):
        run_study([NARROW], Runs(), seeds=[seed], table=table)
        return {"accuracy": 1.0}

    run_study([WIDE], run, seeds=[0], table=table)
    assert [row.variant for row in read_study(table)] == ["narrow, thin", "wide"]


def test_a_row_says_what_it_ran_on(tmp_path):
    (row,), _ = run_study([WIDE], Runs(), seeds=[0], table=tmp_path / "a.csv")
    assert row.hardware == describe_machine()
    assert f", {torch.get_num_threads()} thread" in row.hardware
    assert row.hardware.endswith(f", torch {torch.__version__}")


GOOD = """variant,seed,settings,accuracy,seconds,hardware
wide,0,"{""epochs"": 2, ""width"": 16}",91.5,12.5,a processor
wide,1,"{""epochs"": 2, ""width"": 16}",,12.5,a processor
"""


def test_a_table_is_read_as_it_stands(tmp_path):
    table = tmp_path / "a.csv"
    # As a spreadsheet saves it: a mark in front, other ends of lines, an empty line.
    table.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode() + b"\r\n")
    settings = {"width": 16, "epochs": 2}
    assert read_study(table) == [
        StudyRow("wide", 0, settings, {"accuracy": 91.5}, 12.5, "a processor"),
        StudyRow("wide", 1, settings, {}, 12.5, "a processor"),
    ]


def test_a_row_knows_its_settings_in_any_order_and_under_any_name(tmp_path):
    (tmp_path / "a.csv").write_text(GOOD)
    row = read_study(tmp_path / "a.csv")[0]
    assert row.has_settings({"width": 16.0, "epochs": 2})
    assert not row.has_settings({"width": 16, "epochs": 3})
    assert not row.has_settings({"width": 16})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (GOOD, "", r"line 1: the columns are missing; wanted variant, seed, settings, the figures, seconds, hardware"),
        ("settings,", "", r"line 1: the columns are variant, seed, accuracy.*another version: move it away"),
        ("variant,seed", "seed,variant", "line 1: the columns"),
        ("hardware\n", "hardware,version\n", "line 1: the columns"),
        ("accuracy,", "accuracy,accuracy,", "line 1: the columns"),
        ("wide,0,", "<<<<<<< HEAD\nwide,0,", "line 2: 1 cells, and 6 columns; mend the line"),
        ("91.5,12.5", "91.5,12.5,1", "line 2: 7 cells"),
        ('"{""epochs"": 2, ""width"": 16}",91.5', "epochs 2,91.5", "line 2: settings='epochs 2': wanted a JSON object"),
        ('"{""epochs"": 2, ""width"": 16}",91.5', "[],91.5", r"line 2: settings='\[\]': wanted a JSON object"),
        ('"{""epochs"": 2, ""width"": 16}",91.5', '"{""a"": NaN}",91.5', "line 2: settings=.*wanted a JSON object"),
        ("wide,1", "wide,one", "line 3: seed='one': wanted a whole number"),
        ("wide,1", "wide,0", r"line 3: the run of line 2 again \(wide, seed 0\); delete one"),
        ("91.5", "good", "line 2: accuracy='good': wanted a finite number; mend the line, or delete it"),
        ("91.5", "nan", "line 2: accuracy='nan': wanted a finite number"),
        (",,12.5", ",,", "line 3: seconds='': wanted a finite number"),
        ("wide,1,", 'wide,"1"x,', r"line 3: no CSV .*; mend the line, or delete it to run it anew"),
        # Cut off in its last line: the table is not what is to be deleted.
        ('": 16}",,12.5,a processor\n', '": 1', r"line 3: no CSV .*; mend the line, or delete it to run it anew"),
    ],
)
def test_a_table_that_is_no_study_is_named_with_its_line_before_anything_runs(tmp_path, old, new, message):
    table = tmp_path / "a.csv"
    assert old in GOOD
    table.write_text(GOOD.replace(old, new, 1), newline="")
    before, run = table.read_bytes(), Runs()
    with pytest.raises(ValueError, match=message) as info:
        run_study([WIDE], run, seeds=[0, 7], table=table)
    assert str(table) in str(info.value)
    assert run.calls == []
    assert table.read_bytes() == before


def test_bytes_that_are_no_text_are_a_clear_error(tmp_path):
    (tmp_path / "a.csv").write_bytes(GOOD.encode() + b"\xff\xfe\n")
    with pytest.raises(ValueError, match=r"a\.csv is no UTF-8 text"):
        read_study(tmp_path / "a.csv")


def test_runs_of_other_settings_or_seeds_have_other_folders():
    names = {
        Variant(name, settings).folder(seed)
        for name, settings, seed in [
            ("(5, 5)", {"lr": 0.1, "weights": None}, 0),
            ("(5, 5)", {"weights": None, "lr": 0.1}, 0),
            ("(5, 5)", {"lr": 0.1, "weights": "imagenet"}, 0),
            ("(5, 5)", {"lr": 0.1, "weights": None}, 1),
            ("../é?", {"lr": 0.1, "weights": None}, 1),
        ]
    }
    assert len(names) == 4
    assert all(re.fullmatch(r"[\w-]+-[0-9a-f]{8}-seed-[01]", name) for name in names)
    assert any(name.startswith("5-5-") for name in names)


@pytest.mark.parametrize(
    ("variants", "seeds", "message"),
    [
        ([], [0], "variants is empty"),
        ([WIDE], [], "seeds is empty"),
        ([WIDE, NARROW, Variant("wide", {"width": 1})], [0], "variants: wide comes more than once"),
        ([WIDE], [1, 0, 1], "seeds: 1 comes more than once"),
    ],
)
def test_a_grid_without_members_or_with_twins_is_refused(tmp_path, variants, seeds, message):
    with pytest.raises(ValueError, match=message):
        run_study(variants, Runs(), seeds=seeds, table=tmp_path / "a.csv")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        (" ", {}, ValueError, "name=' '"),
        ("two\nlines", {}, ValueError, r"name='two\\nlines': wanted one line"),
        ("a", {"lr": math.inf}, TypeError, "settings of 'a'.*wanted strings, finite numbers"),
        ("a", {"net": object()}, TypeError, "settings of 'a'"),
        ("a", 3, TypeError, "settings of 'a'"),
    ],
)
def test_a_variant_refuses_what_a_table_cannot_hold(name, settings, error, message):
    with pytest.raises(error, match=message):
        Variant(name, settings)


def test_a_table_that_cannot_be_written_is_found_before_the_first_run(tmp_path):
    run = Runs()
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for table in (tmp_path / "file" / "a.csv", tmp_path / "folder.csv"):
        with pytest.raises(OSError, match=r"file|folder\.csv"):
            run_study([WIDE], run, seeds=[0], table=table)
    assert run.calls == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("what", ["folder", "table"])
def test_a_read_only_table_serves_a_finished_study_and_refuses_a_new_run(tmp_path, what):
    table = tmp_path / "a.csv"
    run_study([WIDE], Runs(), seeds=[0], table=table)
    locked, mode = (tmp_path, 0o500) if what == "folder" else (table, 0o400)
    locked.chmod(mode)
    try:
        run = Runs()
        run_study([WIDE], run, seeds=[0], table=table)
        with pytest.raises(PermissionError, match="no permission to write"):
            run_study([WIDE], run, seeds=[0, 1], table=table)
        assert run.calls == []
    finally:
        locked.chmod(0o700)


def test_a_full_disk_ends_the_study_and_keeps_the_rows(tmp_path, monkeypatch):
    table = tmp_path / "a.csv"
    run_study([WIDE], Runs(), seeds=[0], table=table)
    before = table.read_bytes()

    def run(variant, seed):
        def full(source, target):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        return {"accuracy": 1.0}

    with pytest.raises(OSError, match="free some space"):
        run_study([WIDE], run, seeds=[0, 1], table=table)
    assert table.read_bytes() == before
    assert names(tmp_path) == ["a.csv"]


VALUES = {
    ("wide", 2): (90.25, 31.0),
    ("wide", 0): (91.0, 30.0),
    ("wide", 1): (89.5, 33.5),
    ("narrow, thin", 0): (88.0, 30.0),
}


def rows(values=VALUES):
    by_name = {variant.name: variant.settings for variant in (WIDE, NARROW)}
    return [
        StudyRow(name, seed, by_name[name], {"accuracy": accuracy, "mean": mean}, 1.0, "")
        for (name, seed), (accuracy, mean) in values.items()
    ]


def test_summaries_equal_numpy():
    others = [
        StudyRow("wide", 5, {"width": 1}, {"accuracy": 0.0}, 1.0, ""),
        StudyRow("x", 0, {}, {"accuracy": 0.0}, 1.0, ""),
    ]
    fresh = Variant("fresh", {})
    summary = summarize([*others, *rows()], [NARROW, WIDE, fresh], ["mean", "accuracy"])
    assert list(summary) == ["narrow, thin", "wide", "fresh"]
    wide = summary["wide"]["accuracy"]
    assert wide.values == (91.0, 89.5, 90.25)
    assert wide.mean == pytest.approx(np.mean(wide.values))
    assert wide.std == pytest.approx(np.std(wide.values, ddof=1))
    alone = summary["narrow, thin"]["mean"]
    assert (alone.values, alone.mean, alone.std) == ((30.0,), 30.0, None)
    assert (summary["fresh"]["mean"].values, summary["fresh"]["mean"].mean, summary["fresh"]["mean"].std) == (
        (),
        None,
        None,
    )


def parsed(text):
    """Heading cells, and the cells of each line."""
    heading, rule, *lines = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines())
    assert set("".join(rule)) <= set("|:-")
    return heading, lines


def test_markdown_has_means_deviations_the_reported_and_the_best_in_bold():
    reported = Variant(NARROW.name, NARROW.settings, reported={"accuracy": 87.1})
    shown = {"accuracy": "accuracy (%)", "mean": "mean (°)"}
    text = study_markdown(rows(), [WIDE, reported, Variant("a|b", {})], figures=shown, lower=["mean"], digits=1)
    heading, lines = parsed(text)
    assert heading == ["variant", "accuracy (%) ↑", "reported", "mean (°) ↓", "seeds"]
    spread = np.std([31.0, 30.0, 33.5], ddof=1)
    assert lines == [
        ["wide", "**90.2 ± 0.8**", "-", f"31.5 ± {spread:.1f}", "3"],
        ["narrow, thin", "88.0", "87.1", "**30.0**", "1"],
        [r"a\|b", "-", "-", "-", "0"],
    ]
    # The raw text stands in columns.
    assert len({len(line) for line in text.splitlines()}) == 1


def test_markdown_shows_means_that_read_alike_as_equally_good():
    close = {("wide", 0): (90.001, 1.0), ("narrow, thin", 0): (90.004, 1.0)}
    text = study_markdown(rows(close), [WIDE, NARROW], figures={"accuracy": "accuracy"})
    assert [line[1] for line in parsed(text)[1]] == ["**90.00**", "**90.00**"]


def test_report_stands_beside_the_table(tmp_path):
    pytest.importorskip("matplotlib", reason="figures need the extra `train`")
    table = tmp_path / "widths.csv"
    shown = {"accuracy": "accuracy (%)", "mean": "mean (°)"}
    write_report(table, rows(), [WIDE, NARROW], figures=shown, lower=["mean"], title="Widths")
    assert names(tmp_path) == ["widths.md", "widths.png"]
    markdown = (tmp_path / "widths.md").read_text(encoding="utf-8")
    assert markdown == study_markdown(rows(), [WIDE, NARROW], figures=shown, lower=["mean"])
    with Image.open(tmp_path / "widths.png") as picture:
        assert picture.width > picture.height > 200


@pytest.mark.parametrize(
    ("variants", "lower", "message"),
    [
        ([Variant("fresh", {})], [], "rows: none has accuracy of these variants"),
        ([WIDE], ["mean"], "lower: mean is not among the figures accuracy"),
    ],
)
def test_report_refuses(tmp_path, variants, lower, message):
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path / "a.csv", rows(), variants, figures={"accuracy": "accuracy"}, lower=lower)
    assert names(tmp_path) == []


def test_a_settings_cell_is_json_for_other_programs(tmp_path):
    table, settings = tmp_path / "a.csv", {"b": [1, 2.5, None], "a": {"y": True, "x": 'a "word", é'}}
    run_study([Variant("all", settings)], Runs({("all", 0): {"mean": 1.0}}), seeds=[0], table=table)
    (row,) = cells(table)
    assert json.loads(row["settings"]) == settings
    assert row["settings"] == json.dumps(settings, sort_keys=True)
