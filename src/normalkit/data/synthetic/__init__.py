"""Generated indoor scenes with exact normals and depth.

From the room to the picture: `scene` furnishes a room with the pieces of `furniture` and `clutter` in the materials
of `style`; `photograph` holds a camera in it; `raycast` finds what each pixel sees, `surface` where exactly and in
which colour (`materials`), `light` how bright; `photograph` develops the picture. `shapes` has the geometry.
"""

from normalkit.data.synthetic.rooms import SyntheticRooms

__all__ = ["SyntheticRooms"]
