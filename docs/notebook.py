"""A page of the documentation as a notebook: its text and its Python snippets, cell by cell.

python docs/notebook.py

writes `examples/surface_normals/assignment.ipynb` anew, after a change of `docs/learn/assignment.md`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "learn" / "assignment.md"
NOTEBOOK = ROOT / "examples" / "surface_normals" / "assignment.ipynb"

SNIPPET = re.compile(r"(?P<before>(?:^<!--[^\n]*-->\n+)?)^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
"""A snippet of a page, and the comment in front of it, which may say that it is not run."""

LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
"""The path of a link or a picture to another file of the project."""

# A notebook shows figures of matplotlib itself where pyplot made them; ours belong to nobody.
SETUP = "%matplotlib inline"


def notebook(page: Path = PAGE, place: Path = NOTEBOOK) -> str:
    """The notebook's text.

    Args:
        page: Markdown with snippets.
        place: Where the notebook will stand, from where its links are to lead.
    """
    text = page.read_text(encoding="utf-8")

    def prose(text: str) -> dict[str, Any]:
        return markdown_cell(
            LINK.sub(lambda link: Path(os.path.relpath(page.parent / link[0], place.parent)).as_posix(), text)
        )

    cells, end = [code_cell(SETUP)], 0
    for snippet in SNIPPET.finditer(text):
        cells += [prose(text[end : snippet.start()]), code_cell(snippet["code"])]
        end = snippet.end()
    cells.append(prose(text[end:]))
    cells = [{**cell, "id": f"cell-{number}"} for number, cell in enumerate(cells) if cell["source"]]
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    content = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def markdown_cell(text: str) -> dict[str, Any]:
    """A cell of text."""
    return {"cell_type": "markdown", "metadata": {}, "source": text.strip().splitlines(keepends=True)}


def code_cell(code: str) -> dict[str, Any]:
    """A cell that was not run yet."""
    source = code.strip().splitlines(keepends=True)
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": source}


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(), encoding="utf-8")
