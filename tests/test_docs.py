"""The documentation: every Python snippet runs, and every module has its page."""

import re
from pathlib import Path

import pytest

import normalkit
from normalkit.data.layouts import LAYOUTS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPET = re.compile(r"(?P<before>(?:^<!--[^\n]*-->\n+)?)^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
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
    for (_, _, axes, _, splits), layout in zip(rows, LAYOUTS.values(), strict=True):
        assert axes.strip("`") == ("computed" if layout.normals is None else layout.convention.name)
        assert re.match(r"\w+", splits)[0] == layout.splits[0]
        assert all(split in splits for split in layout.splits)
        assert all(str(count) in splits for count in layout.counts.values())


def test_docstrings_name_their_examples_as_the_docs_expect():
    # The pages show code under `Examples:`; under `Example:` it would be running text.
    sources = (ROOT / "src").rglob("*.py")
    assert [path.name for path in sources if re.search(r"^ *Example:$", path.read_text(), re.MULTILINE)] == []
