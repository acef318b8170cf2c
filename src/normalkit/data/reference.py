"""The reference rooms: pictures in the package that never change, so that figures on them compare across versions.

Files and no seed, since a better generator draws other rooms. They are what
`SyntheticRooms(100, size=(120, 160), seed=2000)` drew in normalkit 0.1.0.dev127: pictures as JPEG of quality 90, and
normals as 8-bit PNG, which is 0.39 degrees off at most.
"""

from __future__ import annotations

from pathlib import Path

from normalkit.data.folder import NormalFolder
from normalkit.data.sample import Transform

__all__ = ["reference_rooms"]

FOLDER = Path(__file__).parent / "reference_rooms"


def reference_rooms(*, transform: Transform | None = None) -> NormalFolder:
    """A hundred rooms of 160 x 120 pixels to score on, the same ones in every version; not to be trained on.

    Args:
        transform: As `NormalFolder` takes it.

    Returns:
        Samples without intrinsics, which are NaN.

    Examples:
        >>> rooms = reference_rooms()
        >>> len(rooms), tuple(rooms[0]["normals"].shape)
        (100, (3, 120, 160))
    """
    return NormalFolder(
        FOLDER, images="*_img.jpg", normals="*_normal.png", convention=None, check=False, transform=transform
    )
