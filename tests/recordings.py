"""Small RGB-D recordings of flat scenes, whose normals are known."""

from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH, FOCAL = 48, 64, 60.0
INTRINSICS = np.array([[FOCAL, 0, (WIDTH - 1) / 2], [0, FOCAL, (HEIGHT - 1) / 2], [0, 0, 1]])


def plane_depth(normal: np.ndarray, distance: float) -> np.ndarray:
    """Depth in metres (H, W) of the plane that lies so far from the camera and has this normal towards it."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    rays = np.linalg.inv(INTRINSICS) @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
    return (-distance / (normal @ rays)).reshape(HEIGHT, WIDTH)


def write_recording(folder: Path, frames: int, *, seed: int = 0) -> list[np.ndarray]:
    """Write a recording in the 7-Scenes layout: a wall a frame, turned a little; returns their normals."""
    folder.mkdir(parents=True)
    np.savetxt(folder / "camera-intrinsics.txt", INTRINSICS)
    draw = np.random.default_rng(seed)
    normals = []
    for number in range(frames):
        normal = np.array([*draw.uniform(-0.4, 0.4, 2), -1.0])
        normal /= np.linalg.norm(normal)
        depth = plane_depth(normal, 2.0)
        Image.fromarray((1000 * depth).round().astype(np.uint16)).save(folder / f"frame-{number:06}.depth.png")
        small = draw.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((WIDTH, HEIGHT)).save(folder / f"frame-{number:06}.color.jpg")
        normals.append(normal)
    return normals
