"""The documentation: every Python snippet runs, and every module has its page."""

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
from scripts import loaded_example

import normalkit
from normalkit import cli
from normalkit.data.layouts import LAYOUTS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAKER = runpy.run_path(str(ROOT / "docs" / "notebook.py"))
SNIPPET = MAKER["SNIPPET"]
NOT_RUN = re.compile(r"<!-- no-test: (?P<reason>\S.*) -->")


def _snippets(page: Path) -> list[tuple[str, bool]]:
    """Each snippet of a page, and whether it is to be run; blank lines in front keep the page's line numbers."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in SNIPPET.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        found.append(("\n" * line + match["code"], not NOT_RUN.match(match["before"])))
    return found


def _modules() -> set[str]:
    """Dotted names below normalkit, packages included, of the modules that a user may import."""
    source = ROOT / "src" / "normalkit"
    paths = [path.relative_to(source).with_suffix("") for path in source.rglob("*.py")]
    public = [path for path in paths if not any(re.match(r"_(?!_init__)", part) for part in path.parts)]
    return {".".join(path.parts).removesuffix("__init__").rstrip(".") for path in public} - {""}


@pytest.mark.parametrize("page", [page for page in PAGES if _snippets(page)], ids=lambda page: page.name)
def test_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for code, run in _snippets(page):
        compiled = compile(code, str(page), "exec")
        if run:
            exec(compiled, names)


def test_snippets_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A\n\n```python\na = 1\n```\n\n<!-- no-test: needs a photo -->\n```python\nb = 2\n```\n")
    assert _snippets(page) == [("\n\n\na = 1\n", True), ("\n" * 8 + "b = 2\n", False)]


def test_the_notebook_is_what_its_page_gives():
    command = "python docs/notebook.py"
    assert MAKER["NOTEBOOK"].read_text(encoding="utf-8") == MAKER["notebook"](), f"run {command}, and commit its result"


def test_a_notebook_has_the_text_and_the_snippets_of_its_page_in_order(tmp_path):
    page = tmp_path / "learn" / "page.md"
    page.parent.mkdir()
    page.write_text(
        "# A\n\nSee [b](../b.md#c), ![d](d.png), [e](https://e.org/f) and [g](#h).\n\n"
        "```python\na = [1](0)\n\nb = 2\n```\n```python\nc = 3\n```\n\n```\nshell\n```\n"
    )
    made = json.loads(MAKER["notebook"](page, tmp_path / "examples" / "x.ipynb"))
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in made["cells"]] == [
        ("code", "%matplotlib inline"),
        ("markdown", "# A\n\nSee [b](../b.md#c), ![d](../learn/d.png), [e](https://e.org/f) and [g](#h)."),
        ("code", "a = [1](0)\n\nb = 2"),
        ("code", "c = 3"),
        ("markdown", "```\nshell\n```"),
    ]
    assert len({cell["id"] for cell in made["cells"]}) == 5


def test_links_of_the_notebook_lead_somewhere():
    cells = json.loads(MAKER["NOTEBOOK"].read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if ":" not in link]
    assert len(links) > 3
    assert [link for link in links if not (MAKER["NOTEBOOK"].parent / link).is_file()] == []


@pytest.mark.slow
def test_the_notebook_runs_and_shows_its_figures(tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    book = nbformat.read(MAKER["NOTEBOOK"], as_version=4)
    nbformat.validate(book)
    nbclient.NotebookClient(book, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    figures = [cell for cell in cells if any("image/png" in output.get("data", {}) for output in cell.outputs)]
    # Those whose last line is a figure.
    drawn = [cell for cell in cells if re.match(r"(training_curves|comparison_grid)\(", cell.source.splitlines()[-1])]
    assert figures == drawn
    assert len(figures) == 2
    assert re.fullmatch(r"(\d+\.\d{4}, ){4}\d+\.\d{4}", cells[-1].outputs[-1].text.strip())


def test_the_gallery_shows_and_credits_every_photograph_that_was_chosen():
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    credits = page[page.index("### Whose they are") :]
    with loaded_example(ROOT / "docs" / "gallery.py") as gallery:
        for figure, photos in gallery.PHOTOS.items():
            assert f"(gallery/{figure}.jpg)" in page
            assert (ROOT / "docs" / "gallery" / f"{figure}.jpg").is_file()
            for name in photos:
                assert re.search(rf"\*\*{name}\*\*.*:", page), name
                assert re.search(rf"^\| [^|]*\b{name}\b[^|]*\|", credits, re.MULTILINE), name


def test_the_gallery_names_the_package_that_is_missing(tmp_path):
    with loaded_example(ROOT / "docs" / "gallery.py") as gallery:
        with pytest.raises(
            FileNotFoundError, match=r"libjxl-testdata/no\.png: not here; apt-get install libjxl-testdata"
        ):
            gallery.find(gallery.Config(debian=tmp_path), "libjxl-testdata/no.png")
        with pytest.raises(FileNotFoundError, match=r"matplotlib/no\.png: not here; pip install matplotlib"):
            gallery.find(gallery.Config(), "matplotlib/no.png")
        assert gallery.find(gallery.Config(), gallery.PHOTOS["people"]["Grace Hopper"]).is_file()
        with pytest.raises(FileNotFoundError, match="0 frames; wanted red_kitchen's val"):
            gallery.frames(tmp_path)


def test_each_module_has_its_api_page():
    api = ROOT / "docs" / "api"
    documented = set()
    for page in api.rglob("*.md"):
        documented |= set(re.findall(r"^::: normalkit\.(\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert documented == _modules()


def test_api_index_lists_each_public_name():
    index = (ROOT / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    assert [name for name in normalkit.__all__ if f"`{name}`" not in index] == ["__version__"]


def test_the_page_of_data_sets_says_what_the_layouts_do():
    page = (ROOT / "docs" / "concepts" / "datasets.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    assert [row[0].strip("`") for row in rows] == list(LAYOUTS)
    for (_, axes, _, splits), layout in zip(rows, LAYOUTS.values(), strict=True):
        assert axes.strip("`") == ("computed" if layout.normals is None else layout.convention.name)
        assert re.match(r"\w+", splits)[0] == layout.splits[0]
        assert all(split in splits for split in layout.splits)
        assert all(str(count) in splits for count in layout.counts.values())


def test_the_page_of_data_sets_says_where_files_lie():
    page = (ROOT / "docs" / "concepts" / "datasets.md").read_text(encoding="utf-8")
    places = dict(re.findall(r"^- \*\*(\w+)\*\*: (.+)$", page, re.MULTILINE))
    assert list(places) == list(LAYOUTS)
    for name, layout in LAYOUTS.items():
        # The first ones are whole paths of real files, but for DIODE's long names.
        shown = re.findall(r"`([^`]+)`", places[name])
        assert shown[0].split("NAME")[0] in layout.example
        assert re.fullmatch(layout.images, f"/{shown[0]}") or name == "diode"


def test_the_report_on_the_page_of_own_data_is_what_the_command_prints(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "learn" / "own-data.md").read_text(encoding="utf-8")
    command = re.search(r"^normalkit (check-data .*)$", page, re.MULTILINE)
    report = re.search(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(SNIPPET.search(page)["code"], {})
    with pytest.raises(SystemExit, match="0"):
        cli.main(shlex.split(command[1]))
    assert capsys.readouterr().out == report[1]
    assert (tmp_path / "look.png").is_file()


def test_pages_show_every_picture_and_every_picture_is_there():
    shown = set()
    for page in PAGES:
        pictures = re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        shown |= {(page.parent / picture).resolve() for picture in pictures}
    drawn = {path for suffix in ("png", "jpg") for path in (ROOT / "docs").rglob(f"*.{suffix}")}
    assert {path for path in shown if not path.is_file()} == set()
    # Those of the results may be of a run that is not written up yet.
    assert {path for path in drawn - shown if ROOT / "docs" / "results" not in path.parents} == set()


def test_docstrings_name_their_examples_as_the_docs_expect():
    # The pages show code under `Examples:`; under `Example:` it would be running text.
    sources = (ROOT / "src").rglob("*.py")
    assert [path.name for path in sources if re.search(r"^ *Example:$", path.read_text(), re.MULTILINE)] == []
