"""Tiny data sets in the layouts in which the field's are released, written as their makers write them."""

import csv
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 6, 8
MATRIX = np.array([[7.0, 0, 3.5], [0, 7.5, 2.5], [0, 0, 1]])

# What the makers' pages say: the factors from x right, y down, z forward, normals towards the camera.
SIGNS = {
    "nyuv2": (-1, -1, -1),
    "scannet": (-1, -1, -1),
    "ibims": (-1, -1, -1),
    "diode": (1, -1, -1),
    "hypersim": (1, -1, -1),
    "taskonomy": (1, 1, -1),
    "framenet": (1, 1, 1),
}

# One name a picture: the folder and the stem by which the writers below place it.
NAMES = {
    "nyuv2": ["test/000000", "test/000001", "test/000008"],
    "scannet": ["scene0061_00/000420", "scene0532_00/000000", "scene0532_00/000450"],
    "ibims": ["ibims/corridor_01", "ibims/kitchen_08", "ibims/office_01"],
    "diode": [
        "val/indoors/scene_00019/scan_00183/00019_00183_indoors_000_010",
        "val/indoors/scene_00020/scan_00184/00020_00184_indoors_040_020",
        "val/outdoor/scene_00022/scan_00193/00022_00193_outdoor_000_000",
    ],
    "hypersim": ["ai_001_001/cam_00/0000", "ai_001_001/cam_01/0007", "ai_010_002/cam_00/0099"],
    "taskonomy": ["hanson/point_0_view_0", "hanson/point_0_view_1", "merom/point_12_view_3"],
    "framenet": ["scene0000_00/frame-000000", "scene0000_00/frame-000010", "scene0100_02/frame-000200"],
}


def make_normals(number, height=HEIGHT, width=WIDTH):
    """OPENCV (H, W, 3) of one direction a picture, facing the camera everywhere."""
    normal = np.array([0.1 * (number + 1), -0.3, -0.9])
    return np.tile(normal / np.linalg.norm(normal), (height, width, 1))


def colours(normals, valid, invalid=0):
    """8-bit colours of normals in the file's axes."""
    codes = np.rint((normals + 1) / 2 * 255).astype(np.uint8)
    return np.where(valid[..., None], codes, np.uint8(invalid))


def write_picture(path: Path, normals):
    """A picture whose brightness is that of its number, by which tests tell them apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = round(1000 * float(normals[0, 0, 0])) % 256
    Image.new("RGB", normals.shape[1::-1], (shade, 50, 200)).save(path)


def save_png(path: Path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_frame(name: str, root: Path, frame: str, normals, valid, *, signs=None, matrix=MATRIX):
    """Write one frame of a data set, of OPENCV normals (H, W, 3) and where they are valid (H, W)."""
    turned = normals * np.array(SIGNS[name] if signs is None else signs)
    WRITERS[name](root, frame, normals, turned, valid)
    if name in ("nyuv2", "scannet", "ibims"):
        np.save(root / f"{frame}_intrins.npy", matrix)


def write_release(name: str, root: Path, *, normals=None, valid=None, signs=None):
    """Write three frames; returns their OPENCV normals and validity."""
    made = normals or [make_normals(number) for number in range(3)]
    masks = valid or [np.ones(n.shape[:2], bool) for n in made]
    for frame, one, mask in zip(NAMES[name], made, masks, strict=False):
        write_frame(name, root, frame, one, mask, signs=signs)
    write_lists(name, root)
    return made, masks


def write_lists(name: str, root: Path, split="test"):
    """The list that says that all frames are of one split, where the data set has such a list."""
    if name == "hypersim":
        write_hypersim_list(root, [(*frame.split("/"), True, split) for frame in NAMES[name]])
    elif name == "taskonomy":
        rows = [[building, *(int(split == s) for s in ("train", "val", "test"))] for building in ("hanson", "merom")]
        write_table(root / "train_val_test_tiny.csv", [["id", "train", "val", "test"], *rows])
    elif name == "framenet":
        write_framenet_list(root, {split: NAMES[name][:1], "train": NAMES[name][1:]})


def write_table(path: Path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_hypersim_list(root: Path, frames):
    head = ["scene_name", "camera_name", "frame_id", "included_in_public_release", "exclude_reason"]
    rows = [[scene, camera, int(frame), kept, "", split] for scene, camera, frame, kept, split in frames]
    write_table(root / "metadata_images_split_scene_v1.csv", [[*head, "split_partition_name"], *rows])


def write_framenet_list(root: Path, frames):
    """As FrameNet's: the paths of its own machine, three lists a split."""

    def paths(names, ending):
        return [f"/orion/u/jingweih/scannet-frames/{name}-{ending}" for name in names]

    endings = ("color.png", "orient.png", "orient-mask.png")
    lists = {split: [paths(names, ending) for ending in endings] for split, names in frames.items()}
    (root / "train_test_split.pkl").write_bytes(pickle.dumps(lists, protocol=2))


def _dsine(root, frame, normals, turned, valid):
    write_picture(root / f"{frame}_img.png", normals)
    save_png(root / f"{frame}_normal.png", colours(turned, valid))


def _ibims(root, frame, normals, turned, valid):
    import OpenEXR

    write_picture(root / f"{frame}_img.png", normals)
    kept = np.where(valid[..., None], turned, 0).astype(np.float32)
    channels = {name: np.ascontiguousarray(kept[..., i]) for i, name in enumerate("RGB")}
    OpenEXR.File({}, channels).write(str(root / f"{frame}_normal.exr"))


def _diode(root, frame, normals, turned, valid):
    write_picture(root / f"{frame}.png", normals)
    np.save(root / f"{frame}_normal.npy", turned)
    np.save(root / f"{frame}_depth.npy", np.ones((*valid.shape, 1), np.float32))
    np.save(root / f"{frame}_depth_mask.npy", valid.astype(np.float32))


def _hypersim(root, frame, normals, turned, valid):
    import h5py

    scene, camera, number = frame.split("/")
    images = root / scene / "images"
    write_picture(images / f"scene_{camera}_final_preview" / f"frame.{number}.tonemap.jpg", normals)
    write_picture(images / f"scene_{camera}_final_preview" / f"frame.{number}.color.jpg", normals)
    path = images / f"scene_{camera}_geometry_hdf5" / f"frame.{number}.normal_cam.hdf5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["dataset"] = np.where(valid[..., None], turned, np.nan).astype(np.float16)


def _taskonomy(root, frame, normals, turned, valid):
    building, view = frame.split("/")
    write_picture(root / "rgb" / "taskonomy" / building / f"{view}_domain_rgb.png", normals)
    labels = colours(turned, valid, invalid=128)
    save_png(root / "normal" / "taskonomy" / building / f"{view}_domain_normal.png", labels)


def _framenet(root, frame, normals, turned, valid):
    write_picture(root / "scannet-frames" / f"{frame}-color.png", normals)
    save_png(root / "scannet-frames" / f"{frame}-normal.png", colours(turned, np.ones_like(valid)))
    save_png(root / "scannet-frames" / f"{frame}-orient-mask.png", (255 * valid).astype(np.uint8))


WRITERS = {
    "nyuv2": _dsine,
    "scannet": _dsine,
    "ibims": _ibims,
    "diode": _diode,
    "hypersim": _hypersim,
    "taskonomy": _taskonomy,
    "framenet": _framenet,
}
