"""What figures are made of: an empty page, letters and their widths, and the file."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from normalkit.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure", "require_matplotlib", "save_figure", "shortened", "text_width", "titled_figure", "wrapped"]

Weight = Literal["normal", "bold"]

TITLE, HEADING, BODY, SMALL = 10.0, 9.0, 7.5, 7.0
"""Sizes of letters in points."""

MARGIN, TITLE_LINE = 0.08, 0.2
"""Inches around a page, and from one line of its title to the next."""

_FORMATS = (".png", ".pdf", ".svg", ".jpg", ".jpeg")


def require_matplotlib() -> None:
    """Say what to install where matplotlib is missing.

    Raises:
        ImportError: It is.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError('drawing figures needs matplotlib: pip install "normalkit[train]"') from error


def new_figure(width: float, height: float, *, layout: Literal["constrained"] | None = None) -> Figure:
    """An empty white figure that pyplot does not know.

    Args:
        width: Inches.
        height: Inches.
        layout: "constrained" for one that places its parts itself.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def titled_figure(width: float, height: float, title: str | None) -> Figure:
    """An empty figure that lays itself out, with a bold title above.

    Args:
        width: Inches.
        height: Inches without the title, whose lines add theirs.
        title: Of any length; None or "" for none.
    """
    lines = wrapped(title, width - 2 * MARGIN, TITLE) if title else []
    figure = new_figure(width, height + (TITLE_LINE * len(lines) + 0.1 if lines else 0), layout="constrained")
    if lines:
        figure.suptitle("\n".join(lines), fontsize=TITLE, fontweight="bold", parse_math=False)
    return figure


def text_width(text: str, size: float, weight: Weight = "normal") -> float:
    """Inches that a line of text takes.

    Args:
        text: One line.
        size: Of its letters, points.
        weight: Of its letters.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0]) / 72


def shortened(text: str, width: float, size: float, weight: Weight = "normal") -> str:
    """The text, or its beginning and end about an ellipsis: file names differ in their end.

    Args:
        text: One line.
        width: Inches that it may take.
        size: Of its letters, points.
        weight: Of its letters.
    """
    text = " ".join(text.split())

    def without(dropped: int) -> str:
        kept = len(text) - dropped
        return f"{text[: kept // 2]}…{text[kept // 2 + dropped :]}" if dropped else text

    def fits(dropped: int) -> bool:
        return text_width(without(dropped), size, weight) <= width

    return without(bisect_left(range(len(text)), True, key=fits))


def wrapped(text: str, width: float, size: float) -> list[str]:
    """The lines of a bold title; a word longer than a line is shortened.

    Args:
        text: The title; its own line breaks are kept.
        width: Inches that a line may take.
        size: Of its letters, points.
    """
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and text_width(longer, size, "bold") > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return [shortened(line, width, size, "bold") for line in lines]


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 200) -> None:
    """Write a figure to a file, whole or not at all.

    The figure stays usable, for instance for a second format: nothing but the caller holds it, so there is
    nothing to close.

    Args:
        figure: From a function of this module, or of one's own.
        path: Its suffix chooses the format: .png, .pdf, .svg, .jpg or .jpeg.
        dpi: Pixels an inch, for the pictures inside vector formats too; print wants 300.

    Raises:
        ValueError: The suffix is not one of these, or `dpi` is not positive.
        OSError: The file cannot be written; what stood there before is kept.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ValueError(f"path={str(path)!r}: cannot tell the format; end it in one of {', '.join(_FORMATS)}")
    if not dpi > 0:
        raise ValueError(f"dpi={dpi}: wanted a positive number of pixels an inch")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format=suffix[1:])
