import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from normalkit.data.synthetic import SyntheticRooms, clutter, furniture
from normalkit.data.synthetic.dice import Dice
from normalkit.data.synthetic.item import TOP, Item
from normalkit.data.synthetic.materials import Pattern, Spots, colour, noise
from normalkit.data.synthetic.photograph import place_camera
from normalkit.data.synthetic.raycast import cast, trace
from normalkit.data.synthetic.scene import _arrays, build_scene
from normalkit.data.synthetic.shapes import Parts, Shape, crossings, first_hit, gradients
from normalkit.data.synthetic.style import Style
from normalkit.data.synthetic.surface import surface
from normalkit.geometry import angular_error, depth_to_normals

SHAPES = [
    (Shape.BOX, 0.0),
    (Shape.ELLIPSOID, 0.0),
    (Shape.FRUSTUM, 0.0),
    (Shape.FRUSTUM, 1.0),
    (Shape.FRUSTUM, 0.4),
    (Shape.FRUSTUM, -0.35),
]


def generator(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


def implicit(shape: Shape, taper: float, point: np.ndarray) -> float:
    """Negative inside the unit shape, positive outside; convex along every line."""
    x, y, z = (float(c) for c in point)
    if shape == Shape.BOX:
        return max(abs(x), abs(y), abs(z)) - 1
    if shape == Shape.ELLIPSOID:
        return math.sqrt(x * x + y * y + z * z) - 1
    foot, tip = (1.0, 1.0 - taper) if taper >= 0 else (1.0 + taper, 1.0)
    return max(abs(z) - 1, math.hypot(x, y) - (foot + (tip - foot) * (z + 1) / 2))


def slow_crossings(shape: Shape, taper: float, origin: np.ndarray, direction: np.ndarray) -> tuple[float, float] | None:
    """Where a line crosses the implicit surface: the least value by thirds, then bisection to either side."""

    def value(t: float) -> float:
        return implicit(shape, taper, origin + t * direction)

    low, high = -50.0, 50.0
    for _ in range(120):
        third = (high - low) / 3
        low, high = (low, high - third) if value(low + third) < value(high - third) else (low + third, high)
    inside = 0.5 * (low + high)
    if value(inside) > 0:
        return None
    roots = []
    for outside in (-50.0, 50.0):
        a, b = inside, outside
        for _ in range(80):
            middle = 0.5 * (a + b)
            a, b = (middle, b) if value(middle) <= 0 else (a, middle)
        roots.append(a)
    return roots[0], roots[1]


@pytest.mark.parametrize(("shape", "taper"), SHAPES)
def test_crossings_and_normals_agree_with_bisection_of_the_implicit_surface(shape: Shape, taper: float) -> None:
    rng = generator(1, shape)
    origins = rng.uniform(-2, 2, (40, 3))
    directions = rng.uniform(-1.3, 1.3, (40, 3)) - origins
    directions[:4] = [[0, 0, 1], [0, 0, -2], [1, 0, 0], [0, -1, 0]]
    origins[:4] *= 0.3
    hits = 0
    for origin, direction in zip(origins, directions, strict=True):
        enter, leave = crossings(shape, origin[:, None], direction[:, None], taper)
        expected = slow_crossings(shape, taper, origin, direction)
        if expected is None:
            assert enter[0] > leave[0]
            continue
        hits += 1
        assert [enter[0], leave[0]] == pytest.approx(expected, abs=1e-9)
        point = origin + enter[0] * direction
        step = 1e-6 * np.eye(3)
        slope = np.array([implicit(shape, taper, point + s) - implicit(shape, taper, point - s) for s in step])
        normal = gradients(shape, point[:, None], taper)[:, 0]
        cosine = normal @ slope / np.linalg.norm(normal) / np.linalg.norm(slope)
        assert cosine > 1 - 1e-6
    assert 10 < hits < 40


def test_ray_that_enters_an_open_face_meets_the_inside() -> None:
    down = np.array([[0.2, 3.0, 0.2], [0.1, 0.3, 0.1], [3.0, 0.0, 3.0]])
    direction = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 1.0]])
    open_hits = first_hit(Shape.FRUSTUM, down, direction, 0.0, TOP)
    closed_hits = first_hit(Shape.FRUSTUM, down, direction, 0.0, 0)
    # Through the mouth to the floor at z = -1; against the side from outside as ever; upwards past the mouth.
    assert open_hits == pytest.approx([4.0, 3 - math.sqrt(1 - 0.09), np.inf])
    assert closed_hits == pytest.approx([2.0, 3 - math.sqrt(1 - 0.09), np.inf])
    out_of_the_mouth = first_hit(Shape.BOX, np.zeros((3, 1)), np.array([[0.0], [0.0], [1.0]]), 0.0, TOP)
    assert np.isinf(out_of_the_mouth[0])


def slow_trace(parts: Parts, origin: np.ndarray, direction: np.ndarray) -> tuple[float, int]:
    """The nearest closed part along a segment, one part at a time, by bisection."""
    best = (math.inf, -1)
    for k in range(len(parts)):
        local = [parts.rotation[k].T @ (x) / parts.half[k] for x in (origin - parts.center[k], direction)]
        ends = slow_crossings(Shape(parts.shape[k]), float(parts.taper[k]), *local)
        t = math.inf if ends is None else next((t for t in ends if t > 1e-4), math.inf)
        if t < min(best[0], 1.0):
            best = (t, k)
    return best


def test_trace_finds_the_nearest_of_many_turned_parts() -> None:
    dice, item = Dice(generator(2)), Item()
    for shape, taper in SHAPES * 2:
        place = (dice.uniform(-2, 2), dice.uniform(-2, 2), dice.uniform(-2, 2))
        half = (dice.uniform(0.05, 0.9), dice.uniform(0.05, 0.9), dice.uniform(0.05, 0.9))
        item.solid(shape, 0, place, half, turn=(dice.turn(), dice.turn(), dice.turn()), taper=taper)
    parts = _arrays(item.parts)
    rng = generator(3)
    origin = rng.uniform(-3, 3, (3, 30)).astype(np.float32)
    direction = (rng.uniform(-3, 3, (3, 30)) - origin).astype(np.float32)
    share, part = trace(parts, np.arange(len(parts)), origin, direction)
    expected = [slow_trace(parts, o, d) for o, d in zip(origin.T.astype(float), direction.T.astype(float), strict=True)]
    assert part.tolist() == [k for _, k in expected]
    assert share == pytest.approx([t for t, _ in expected], abs=1e-4)
    assert 5 < (part >= 0).sum() < 30


@pytest.mark.parametrize("index", range(5))
def test_drawing_part_by_part_sees_what_testing_every_part_at_every_pixel_sees(index: int) -> None:
    scene = build_scene(generator(4, index))
    camera = place_camera(scene, (36, 44), generator(5, index))
    seen = surface(scene, camera, cast(scene, camera))
    rays = camera.rays().reshape(3, -1)
    nearest = np.full(rays.shape[1], np.inf)
    parts = scene.parts
    for k in range(len(parts)):
        start = parts.rotation[k].T @ (camera.position - parts.center[k]) / parts.half[k]
        along = parts.rotation[k].T @ rays / parts.half[k][:, None]
        shape = Shape(parts.shape[k])
        hit = first_hit(shape, start[:, None], along, float(parts.taper[k]), int(parts.openings[k]))
        # Shell and recess together are one hollow: through the opening the shell is no surface.
        replaces = np.isfinite(hit) if 1 <= k <= scene.recesses else hit < nearest
        nearest = np.where(replaces, hit, nearest)
    different = np.abs(seen.depth.ravel() / nearest - 1) > 1e-5
    # A few silhouettes fall on a pixel's centre to within float32.
    assert different.mean() < 0.002


def test_every_camera_stands_in_the_room_and_in_no_part() -> None:
    for index in range(20):
        scene = build_scene(generator(6, index))
        position = place_camera(scene, (32, 32), generator(7, index)).position
        assert (position > 0).all()
        assert (position < scene.size).all()
        parts = scene.parts
        local = np.abs(np.einsum("mji,mj->mi", parts.rotation, position - parts.center)) / parts.half
        assert not (local < 1)[1:].all(1).any()


MAKERS = [
    *(
        (make, "floor")
        for make in dict.fromkeys((*furniture.AGAINST_WALLS, *furniture.IN_THE_ROOM, *clutter.ON_FLOORS))
    ),
    *((make, "floor") for make in dict.fromkeys(clutter.ON_TABLES)),
    *((make, "wall") for make in dict.fromkeys(furniture.ON_WALLS)),
    *((make, "ceiling") for make in dict.fromkeys(furniture.ON_CEILINGS)),
]


@pytest.mark.parametrize(("make", "on"), MAKERS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_every_piece_of_furniture_is_solid_and_stays_on_its_side(make, on: str) -> None:
    corners = np.array(list(itertools.product((-1, 1), repeat=3)))
    for seed in range(12):
        style = Style(Dice(generator(8, seed)))
        parts = _arrays(make(Dice(generator(9, seed)), style).parts)
        assert np.isfinite(parts.center).all()
        assert (parts.half > 0).all()
        assert (np.abs(parts.taper) <= 1).all()
        assert parts.material.max() < len(style.materials)
        points = parts.center[:, None] + np.einsum("mij,cj,mj->mci", parts.rotation, corners, parts.half)
        lowest, highest = points.min((0, 1)), points.max((0, 1))
        # Pillows and leaves sink a little; a rounded part's corners are not its own.
        assert {"floor": lowest[2], "wall": lowest[1], "ceiling": -highest[2]}[on] > -0.06
        assert (highest - lowest < 4).all()


@pytest.mark.parametrize("pattern", Pattern)
def test_patterns_are_colours_and_fade_to_an_even_tone_far_away(pattern: Pattern) -> None:
    rng = generator(10)
    u, v = rng.uniform(-3, 3, (2, 500)).astype(np.float32)
    a, b = rng.uniform(-1, 1, (2, 500)).astype(np.float32)

    def paint(footprint: float) -> np.ndarray:
        tones = [np.full((3, 500), tone, dtype=np.float32) for tone in (0.2, 0.6, 0.4)]
        size = np.full(500, footprint, dtype=np.float32)
        return colour(pattern, Spots(u, v, a, b, size, *tones, np.full_like(size, 0.1), np.full_like(size, 0.3)))

    near = paint(0.001)
    assert near.shape == (3, 500)
    assert np.isfinite(near).all()
    assert near.min() >= 0
    assert (near.std() > 0.01) == (pattern != Pattern.PLAIN)
    if pattern not in (Pattern.RUG, Pattern.PICTURE, Pattern.PRINT, Pattern.SCREEN, Pattern.OUTDOORS):
        # These repeat every few centimetres; those left out are drawn once over a face.
        assert paint(10.0).std() < 0.5 * near.std() + 1e-6


def test_noise_repeats_and_keeps_its_mean() -> None:
    u, v = generator(11).uniform(0, 1, (2, 4000))
    assert noise(u, v) == pytest.approx(noise(u + 3, v - 2), abs=1e-4)
    assert noise(u, v).mean() == pytest.approx(0.5, abs=0.02)
    assert noise(u, v, 0.5).std() < 0.7 * noise(u, v).std()


@pytest.fixture(scope="module")
def samples() -> list[dict]:
    rooms = SyntheticRooms(12, size=(96, 128), seed=3)
    return [rooms[k] for k in range(12)]


def test_sample_has_the_promised_entries(samples: list[dict]) -> None:
    expected = {
        "image": ((3, 96, 128), torch.float32),
        "normals": ((3, 96, 128), torch.float32),
        "mask": ((96, 128), torch.bool),
        "depth": ((1, 96, 128), torch.float32),
        "intrinsics": ((3, 3), torch.float32),
    }
    for k, sample in enumerate(samples):
        assert sample.pop("name") == f"room-3-{k}"
        assert {name: (tuple(x.shape), x.dtype) for name, x in sample.items()} == expected
        assert all(x.is_contiguous() for x in sample.values())
        sample["name"] = f"room-3-{k}"


def test_normals_are_unit_and_face_the_camera(samples: list[dict]) -> None:
    v, u = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)])
    for sample in samples:
        normals, mask = sample["normals"], sample["mask"]
        rays = torch.einsum("ij,jhw->ihw", torch.linalg.inv(sample["intrinsics"]), pixels)
        assert (normals.norm(dim=0)[mask] - 1).abs().max() < 1e-5
        assert ((normals * rays).sum(0)[mask] < 1e-4).all()
        assert (normals[:, ~mask] == 0).all()
        assert (sample["depth"][0] > 0).equal(mask)
        assert mask.float().mean() > 0.3
    assert any((~sample["mask"]).any() for sample in samples), "no window to the sky among 12 rooms"


def test_normals_are_those_of_the_exact_depth(samples: list[dict]) -> None:
    errors = []
    for sample in samples:
        depth, normals = sample["depth"][None].double(), sample["normals"][None].double()
        fitted, flat = depth_to_normals(depth, sample["intrinsics"], window=3, min_valid=1.0, max_step=0.2)
        errors.append(angular_error(fitted, normals)[flat & sample["mask"][None]])
    pooled = torch.cat(errors)
    assert len(pooled) > 0.6 * 12 * 96 * 128
    assert pooled.median() < 0.01
    # Beyond these are windows that span an edge.
    assert pooled.quantile(0.75) < 0.5


def test_back_projected_points_of_one_flat_patch_lie_in_a_plane_through_their_normal(samples: list[dict]) -> None:
    v, u = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).double()
    for sample in samples:
        rays = torch.einsum("ij,jhw->ihw", torch.linalg.inv(sample["intrinsics"].double()), pixels)
        points, normals = rays * sample["depth"].double(), sample["normals"].double()
        distance = (points * normals).sum(0)[sample["mask"]]
        # Floor, walls, ceiling: the commonest plane's pixels all have one normal and one distance from the camera.
        planes = torch.cat([normals[:, sample["mask"]], distance[None]]).T.mul(2e3).round()
        _, counts = planes.unique(dim=0, return_counts=True)
        assert counts.max() > 0.03 * len(planes)


def test_pictures_are_exposed(samples: list[dict]) -> None:
    for sample in samples:
        image = sample["image"]
        assert image.min() >= 0
        assert image.max() <= 1
        assert 0.1 < image.mean() < 0.85
        assert image.std() > 0.05
        assert (image > 0.995).float().mean() < 0.4
        assert (image < 0.005).float().mean() < 0.4


def test_fields_of_view_lie_within_45_and_100_degrees_and_differ() -> None:
    rooms = SyntheticRooms(25, size=(16, 24), seed=4)
    angles = [2 * math.degrees(math.atan(12 / float(rooms[k]["intrinsics"][0, 0]))) for k in range(25)]
    assert min(angles) >= 45 - 1e-3
    assert max(angles) <= 100 + 1e-3
    assert max(angles) - min(angles) > 20


def same(a: dict, b: dict) -> bool:
    return a["name"] == b["name"] and all(a[key].equal(b[key]) for key in a if key != "name")


def test_sample_depends_on_seed_and_index_alone() -> None:
    short, long = SyntheticRooms(4, size=(32, 40), seed=5), SyntheticRooms(9000, size=(32, 40), seed=5)
    forward = [short[k] for k in range(4)]
    assert all(same(forward[k], long[k]) for k in (3, 1, 0, 2))
    assert same(short[-1], forward[3])
    loader = DataLoader(pickle.loads(pickle.dumps(short)), batch_size=None, num_workers=2)
    assert all(same(a, b) for a, b in zip(loader, forward, strict=True))
    others = [forward[1], SyntheticRooms(4, size=(32, 40), seed=6)[0]]
    assert not any(forward[0][key].equal(other[key]) for other in others for key in ("image", "normals", "depth"))


def test_state_of_other_generators_is_neither_used_nor_touched() -> None:
    rooms = SyntheticRooms(1, size=(16, 16))
    torch.manual_seed(0)
    np.random.seed(0)
    first, expected = rooms[0], (torch.rand(1).item(), np.random.random())
    torch.manual_seed(0)
    np.random.seed(0)
    assert (torch.rand(1).item(), np.random.random()) == expected
    assert same(first, rooms[0])


def test_transform_moves_every_map() -> None:
    plain, mirrored = (SyntheticRooms(2, size=(16, 16), transform=t)[1] for t in (None, v2.RandomHorizontalFlip(1.0)))
    assert mirrored["name"] == "room-0-1"
    for key in ("image", "mask", "depth"):
        assert torch.equal(mirrored[key], plain[key].flip(-1)), key
    turned = plain["normals"].flip(-1) * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1)
    torch.testing.assert_close(mirrored["normals"], turned)


@pytest.mark.parametrize("index", [3, -4, 10**9])
def test_index_out_of_range(index: int) -> None:
    rooms = SyntheticRooms(3)
    assert len(rooms) == 3
    with pytest.raises(IndexError, match=f"index={index} is out of range; these SyntheticRooms have 3 samples"):
        rooms[index]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"length": -1}, ValueError, r"length=-1: wanted at least 0"),
        ({"length": 2.5}, TypeError, r"length=2.5 is a float; wanted a whole number"),
        ({"size": 128}, ValueError, r"size=128: wanted \(height, width\) in pixels"),
        ({"size": (3, 64, 64)}, ValueError, r"size=\(3, 64, 64\): wanted \(height, width\)"),
        ({"size": (64, 8)}, ValueError, r"size\[1\]=8: wanted at least 16"),
        ({"size": (64.0, 64)}, TypeError, r"size\[0\]=64.0 is a float"),
        ({"seed": -3}, ValueError, r"seed=-3: wanted at least 0"),
        ({"transform": 7}, TypeError, r"transform=7 cannot be called"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SyntheticRooms(**arguments)
