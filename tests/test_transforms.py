"""Transforms against torchvision's own on a picture of pixel numbers, and against a scene seen by the new camera."""

import base64
import copy
import io
import itertools
import math
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch.utils.data import DataLoader, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2.functional import _utils as registry
from torchvision.tv_tensors import BoundingBoxes, Image, Mask

from normalkit.geometry import Convention, angular_error, convert_normals
from normalkit.transforms import Intrinsics, RandomCameraRotation, SurfaceNormals, training_transform

# Both odd, so that turns by 90 degrees about the middle have no ties.
HEIGHT, WIDTH = 11, 17
NUMBERS = torch.arange(1.0, HEIGHT * WIDTH + 1).view(1, HEIGHT, WIDTH)
STEP = 3 / (HEIGHT * WIDTH + 1)
CAMERA = torch.tensor([[20.0, 0, 7.25], [0, 20, 6.5], [0, 0, 1]])
NEAREST = {"interpolation": v2.InterpolationMode.NEAREST}
EXACT = {"interpolation": v2.InterpolationMode.NEAREST_EXACT, "antialias": False}
STILL, MIRRORED, UPSIDE_DOWN = np.eye(3), np.diag([-1.0, 1, 1]), np.diag([1.0, -1, 1])


def numbered(numbers=NUMBERS):
    """A unit vector for each pixel, from which its number can be read."""
    angle = numbers * STEP
    return SurfaceNormals(torch.cat([0.6 * torch.sin(angle), 0.6 * torch.cos(angle), torch.full_like(angle, -0.8)]))


def read_numbers(normals, turn):
    """The pixel numbers of vectors that were turned; 0 where invalid."""
    vectors = np.einsum("ji,jhw->ihw", turn, normals.numpy())
    valid = np.abs(vectors).sum(0) > 0
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0)[valid], 1, atol=1e-6)
    np.testing.assert_allclose(vectors[2][valid], -0.8, atol=1e-6)
    return np.where(valid, np.rint(np.arctan2(vectors[0], vectors[1]) % (2 * math.pi) / STEP), 0)


def counter_clockwise(degrees):
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])


def affine(angle, translate, scale, center):
    return {"angle": angle, "translate": translate, "scale": scale, "shear": [0.0], "center": center}


CASES = [
    (F.horizontal_flip, {}, {}, MIRRORED),
    (F.vertical_flip, {}, {}, UPSIDE_DOWN),
    *[
        (F.rotate, {"angle": angle, "expand": expand, "center": center}, NEAREST, counter_clockwise(angle))
        for angle, expand, center in [
            *itertools.product((0, 8, 90, -37.5, 180, 270, 450), (False, True), (None,)),
            (25, False, [3, 4.6]),
            (-50, True, [13.3, 2]),
        ]
    ],
    *[
        (F.affine, affine(angle, translate, scale, center), NEAREST, counter_clockwise(-angle))
        for angle, translate, scale, center in itertools.product(
            (0, 25), ([0, 0], [2, -3]), (0.71, 1.37), (None, [3, 5])
        )
    ],
    *[
        (F.resize, {"size": size, "max_size": largest}, EXACT, STILL)
        for size, largest in [
            ([7, 9], None),
            ([22, 34], None),
            (8, None),
            ([8], None),
            (9, 12),
            (None, 10),
            ([31, 5], None),
        ]
    ],
    *[
        (F.crop, {"top": top, "left": left, "height": height, "width": width}, {}, STILL)
        for top, left, height, width in [(0, 0, 5, 6), (-2, -3, 9, 30), (3, 2, 20, 5), (50, 50, 3, 3)]
    ],
    (F.resized_crop, {"top": 2, "left": -3, "height": 6, "width": 9, "size": [7, 8]}, EXACT, STILL),
    (F.resized_crop, {"top": 1, "left": 3, "height": 8, "width": 9, "size": 5}, EXACT, STILL),
    *[(F.center_crop, {"output_size": size}, {}, STILL) for size in (5, [4], [4, 7], [16, 20], [13, 6], (10, 20))],
    *[(F.pad, {"padding": padding, "fill": 0}, {}, STILL) for padding in (2, [3], [1, 2], [1, 2, 3, 4], (0, 1, 0, 2))],
]


@pytest.mark.parametrize(("move", "options", "picture_options", "turn"), CASES)
def test_each_vector_comes_from_the_pixel_of_the_picture(move, options, picture_options, turn):
    moved = move(numbered(), **options)
    assert type(moved) is SurfaceNormals
    np.testing.assert_array_equal(read_numbers(moved, turn)[None], move(Image(NUMBERS), **options, **picture_options))


@pytest.mark.parametrize(("move", "options", "picture_options", "turn"), CASES)
def test_intrinsics_see_each_point_where_the_picture_shows_it(move, options, picture_options, turn):
    # Where the picture of coordinates has them after the move; the new camera sees the turned point there.
    v, u = torch.meshgrid(torch.arange(HEIGHT) / 1.0, torch.arange(WIDTH) / 1.0, indexing="ij")
    coordinates = move(numbered(), **options)
    moved = move(Intrinsics(CAMERA, canvas_size=(HEIGHT, WIDTH)), **options)
    assert type(moved) is Intrinsics
    assert moved.canvas_size == tuple(F.get_size(moved)) == coordinates.shape[-2:]
    numbers = read_numbers(coordinates, turn).astype(int)
    y, x = np.nonzero(numbers)
    if len(x) == 0:
        return
    old = np.stack([u.flatten()[numbers[y, x] - 1], v.flatten()[numbers[y, x] - 1], np.ones(len(x))])
    seen = moved.double().numpy() @ turn @ np.linalg.inv(CAMERA.double().numpy()) @ old
    seen = seen[:2] / seen[2]
    # Nearest is at most half an old pixel off in each direction, which the move may enlarge.
    scale = np.abs(moved.numpy()[:2, :2] @ turn[:2, :2] / 20)
    assert (np.abs(seen - np.stack([x, y])) <= scale @ np.full((2, 1), 0.5) + 1e-3).all()


def inside_of_sphere(camera, center, height, width):
    """Normals of a sphere of radius 2 that the camera is in, (3, H, W) float64: smooth, and each ray hits it."""
    v, u = np.mgrid[:height, :width].astype(float)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera.double().numpy()).T
    # |t r - c| = 2, the positive solution.
    a, b, c = (rays**2).sum(-1), rays @ center, center @ center - 4
    points = rays * ((b + np.sqrt(b**2 - a * c)) / a)[..., None]
    return np.moveaxis(center - points, -1, 0) / 2


@pytest.mark.parametrize(
    ("move", "turn"),
    [
        (lambda x: F.horizontal_flip(x), MIRRORED),
        (lambda x: F.vertical_flip(x), UPSIDE_DOWN),
        (lambda x: F.rotate(x, 90, expand=True), counter_clockwise(90)),
        (lambda x: F.rotate(x, 180), counter_clockwise(180)),
        (lambda x: F.center_crop(F.pad(x, [3, 1, 0, 2]), [9, 30]), STILL),
        (
            lambda x: F.horizontal_flip(F.rotate(F.crop(x, 4, 3, 30, 50), 270, expand=True)),
            MIRRORED @ counter_clockwise(270),
        ),
    ],
)
@pytest.mark.parametrize("camera", [CAMERA, torch.tensor([[70.0, 4, 30], [0, 45, 18], [0, 0, 1]])])
def test_normals_are_those_that_the_new_camera_sees(move, turn, camera):
    center = np.array([0.3, -0.2, 0.4])
    normals = move(SurfaceNormals(torch.from_numpy(inside_of_sphere(camera, center, 40, 60))))
    intrinsics = move(Intrinsics(camera.double(), canvas_size=(40, 60)))
    expected = inside_of_sphere(intrinsics.as_subclass(torch.Tensor), turn @ center, *normals.shape[-2:])
    valid = normals.mask
    assert valid.float().mean() > 0.3
    assert (
        float(angular_error(normals.as_subclass(torch.Tensor), torch.from_numpy(expected), dim=0)[valid].max()) < 1e-5
    )


@pytest.mark.parametrize(
    ("move", "turn"),
    [
        (lambda x: F.rotate(x, 8), counter_clockwise(8)),
        (lambda x: F.rotate(x, -33, expand=True), counter_clockwise(-33)),
        (lambda x: F.resize(x, [90, 70]), STILL),
        (lambda x: F.resized_crop(x, 3, 5, 20, 30, [77, 64]), STILL),
        (lambda x: F.affine(x, 20, [4, 3], 1.4, [0.0, 0.0], center=[20, 30]), counter_clockwise(-20)),
    ],
)
def test_normals_are_those_of_the_new_camera_to_half_a_pixel(move, turn):
    camera, center = torch.tensor([[70.0, 0, 30], [0, 70, 18], [0, 0, 1]]), np.array([0.3, -0.2, 0.4])
    normals = move(SurfaceNormals(torch.from_numpy(inside_of_sphere(camera, center, 40, 60))))
    intrinsics = move(Intrinsics(camera.double(), canvas_size=(40, 60)))
    expected = inside_of_sphere(intrinsics.as_subclass(torch.Tensor), turn @ center, *normals.shape[-2:])
    error = angular_error(normals.as_subclass(torch.Tensor), torch.from_numpy(expected), dim=0)[normals.mask]
    # A pixel is 0.8 degrees wide, and the normal turns about as much as the ray.
    assert 0 < float(error.max()) < 1


@pytest.mark.parametrize("degrees", [30, -75])
def test_turn_is_the_documented_one(degrees):
    nx, ny, nz = 0.6, 0.48, -0.64
    turned = F.rotate(SurfaceNormals(torch.tensor([nx, ny, nz]).view(3, 1, 1).expand(3, 5, 5)), degrees)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    np.testing.assert_allclose(turned[:, 2, 2], [nx * cos + ny * sin, -nx * sin + ny * cos, nz], atol=1e-6)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
@pytest.mark.parametrize("fill", [0, 255, [1.0, 2.0, 3.0], None])
def test_what_comes_from_outside_is_invalid_whatever_the_fill(mode, fill):
    padded = F.pad(numbered(), [2, 1, 0, 3], fill=fill, padding_mode=mode)
    inside = torch.zeros(HEIGHT + 4, WIDTH + 2, dtype=torch.bool)
    inside[1:-3, 2:] = True
    assert torch.equal(padded.mask, inside)
    assert not padded[:, ~inside].any()
    for moved in (
        F.rotate(numbered(), 45, fill=fill, interpolation=v2.InterpolationMode.BILINEAR),
        F.affine(numbered(), 0, [9, 0], 1.0, [0.0], fill=fill),
    ):
        assert not moved[:, 0, 0].any()


def test_autocast_costs_no_digits():
    with torch.autocast("cpu", torch.bfloat16):
        turned, camera = F.rotate(numbered(), 30), F.rotate(Intrinsics(CAMERA, canvas_size=(HEIGHT, WIDTH)), 30)
    assert torch.equal(turned, F.rotate(numbered(), 30))
    assert torch.equal(camera, F.rotate(Intrinsics(CAMERA, canvas_size=(HEIGHT, WIDTH)), 30))


def test_holes_stay_holes_under_any_interpolation():
    normals = numbered()
    normals[:, 3:5, 4:9] = 0
    doubled = F.resize(normals, [2 * HEIGHT, 2 * WIDTH], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    expected = normals.mask.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(doubled.mask, expected)


@pytest.mark.parametrize("vertical", [False, True])
def test_five_and_ten_crops(vertical):
    picture, normals, camera = Image(NUMBERS), numbered(), Intrinsics(CAMERA, canvas_size=(HEIGHT, WIDTH))
    pictures, crops, cameras = (F.ten_crop(x, [5, 6], vertical_flip=vertical) for x in (picture, normals, camera))
    assert len(crops) == len(cameras) == 10
    for i in range(10):
        turn = STILL if i < 5 else UPSIDE_DOWN if vertical else MIRRORED
        np.testing.assert_array_equal(read_numbers(crops[i], turn)[None], pictures[i])
    for one, other in ((crops, F.five_crop(normals, [5, 6])), (cameras, F.five_crop(camera, [5, 6]))):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=False))
    with pytest.raises(ValueError, match="larger than the picture, 11 x 17"):
        F.five_crop(normals, 12)


def sample_of(form):
    tensors = (
        Image(NUMBERS.expand(3, -1, -1)),
        numbered(),
        Mask(NUMBERS[0] > 0),
        Intrinsics(CAMERA, canvas_size=(11, 17)),
    )
    return tensors if form is tuple else dict(zip(("image", "normals", "mask", "intrinsics"), tensors, strict=True))


@pytest.mark.parametrize("form", [tuple, dict])
def test_transform_classes_in_a_composition(form):
    torch.manual_seed(0)
    transform = v2.Compose(
        [
            v2.RandomHorizontalFlip(1.0),
            v2.Pad(2),
            v2.RandomCrop((13, 14)),
            v2.RandomVerticalFlip(1.0),
            v2.CenterCrop(11),
            v2.ColorJitter(0.3),
            v2.Identity(),
        ]
    )
    moved = transform(sample_of(form))
    image, normals, mask, intrinsics = moved if form is tuple else moved.values()
    assert type(moved) is form
    np.testing.assert_array_equal(read_numbers(normals, UPSIDE_DOWN @ MIRRORED) > 0, mask)
    unjittered = v2.Compose([t for t in transform.transforms if not isinstance(t, v2.ColorJitter)])
    torch.manual_seed(0)
    image = unjittered(sample_of(tuple))[0]
    np.testing.assert_array_equal(read_numbers(normals, UPSIDE_DOWN @ MIRRORED), image[0])
    assert intrinsics.canvas_size == (11, 11)


@pytest.mark.parametrize(
    "transform",
    [
        v2.Resize((7, 9)),
        v2.RandomResizedCrop((8, 6)),
        v2.RandomZoomOut(p=1.0),
        v2.ScaleJitter((20, 20)),
        v2.RandomShortestSize([8]),
        v2.RandomAffine(20, (0.1, 0.1), (0.8, 1.2)),
        v2.RandomRotation(30, expand=True),
        v2.RandomCrop((20, 20), pad_if_needed=True),
        v2.Pad(3, padding_mode="reflect"),
    ],
    ids=lambda t: type(t).__name__,
)
def test_every_part_of_a_sample_keeps_one_size(transform):
    moved = transform(sample_of(dict))
    sizes = {tuple(F.get_size(x)) for x in moved.values()}
    assert len(sizes) == 1
    assert [type(x) for x in moved.values()] == [Image, SurfaceNormals, Mask, Intrinsics]


@pytest.mark.parametrize(
    "transform",
    [
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        v2.GaussianBlur(3),
        v2.GaussianNoise(),
        v2.RandomErasing(1.0),
        v2.RandomInvert(1.0),
        v2.RandomEqualize(1.0),
        v2.Grayscale(3),
        v2.Normalize([0.5] * 3, [0.5] * 3),
        v2.ToDtype(torch.float64, scale=True),
    ],
    ids=lambda t: type(t).__name__,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_colours_leave_normals_alone(transform):
    before = sample_of(dict)
    before["image"] = Image(before["image"] / NUMBERS.max())
    after = transform(before)
    assert not torch.equal(after["image"], before["image"]) or after["image"].dtype == torch.float64
    for key in ("normals", "intrinsics"):
        assert type(after[key]) is type(before[key])
        assert torch.equal(after[key], before[key])


def test_whatever_else_moves_a_mask_is_refused():
    kinds = (SurfaceNormals, Intrinsics)
    moving = {f for f, kernels in registry._KERNEL_REGISTRY.items() if Mask in kernels}
    assert {F.elastic, F.perspective} < moving
    assert all(kind in registry._KERNEL_REGISTRY[f] for f in moving for kind in kinds)


@pytest.mark.parametrize("kind", ["normals", "intrinsics"])
@pytest.mark.parametrize(
    ("transform", "error", "message"),
    [
        (v2.ElasticTransform(sigma=0.5), TypeError, "elastic moves pixels as no camera does.*use one of affine, "),
        (v2.RandomPerspective(p=1.0), TypeError, "perspective moves pixels.*transforms.RandomCameraRotation"),
        (v2.RandomAffine(0, shear=(10, 10)), ValueError, r"shear=.*use shear=0"),
        (
            v2.ToDtype({SurfaceNormals: torch.uint8, Intrinsics: torch.int64, "others": None}),
            TypeError,
            "floating point",
        ),
    ],
)
def test_refused(kind, transform, error, message):
    sample = sample_of(dict)
    with pytest.raises(error, match=message):
        transform({"image": sample["image"], kind: sample[kind]})


@pytest.mark.parametrize(
    ("copied_by", "dtype"),
    [
        (copy.deepcopy, torch.float32),
        (lambda x: pickle.loads(pickle.dumps(x)), torch.float32),
        (lambda x: x.clone(), torch.float32),
        (lambda x: x.detach(), torch.float32),
        pytest.param(
            lambda x: tv_tensors.wrap(x + 0, like=x),
            torch.float32,
            marks=pytest.mark.skipif(
                not hasattr(tv_tensors.TVTensor, "wrap"), reason="older torchvision drops the size"
            ),
        ),
        (lambda x: x.to(torch.float64), torch.float64),
        (lambda x: F.to_dtype(x, torch.float64), torch.float64),
    ],
)
@pytest.mark.parametrize("part", ["normals", "intrinsics"])
def test_copies_keep_type_and_size(copied_by, dtype, part):
    original = sample_of(dict)[part]
    copied = copied_by(original)
    assert type(copied) is type(original)
    assert F.get_size(copied) == [11, 17]
    assert copied.dtype == dtype
    assert torch.equal(copied, original.to(copied.dtype))
    assert type(copied + 0) is torch.Tensor


def test_operations_that_return_subclasses():
    camera = Intrinsics(CAMERA, canvas_size=(11, 17))
    with tv_tensors.set_return_type("TVTensor"):
        assert (camera * 2).canvas_size == (11, 17)
        assert type(torch.stack([camera, camera])) is torch.Tensor
        assert type(camera.sum()) is torch.Tensor


def test_unknown_intrinsics_stay_unknown():
    unknown = Intrinsics(torch.full((3, 3), math.nan), canvas_size=(11, 17))
    assert F.horizontal_flip(F.resize(unknown, [5, 5])).isnan().all()


class TestSurfaceNormals:
    def test_converted_normalised_and_checked(self):
        data = torch.tensor([[0, 3, 4], [0, 0, 0.4], [math.nan, 1, 0], [0, math.inf, 0]]).T.view(3, 2, 2)
        normals = SurfaceNormals(data, convention=Convention.OPENGL)
        np.testing.assert_allclose(normals.flatten(1).T, [[0, -0.6, -0.8], [0] * 3, [0] * 3, [0] * 3], atol=1e-7)
        assert normals.mask.tolist() == [[True, False], [False, False]]
        back = convert_normals(normals, Convention.OPENCV, Convention.OPENGL, dim=0)
        np.testing.assert_allclose(back[:, 0, 0], [0, 0.6, 0.8], atol=1e-7)

    def test_leading_axes_and_half_precision(self):
        single = numbered()
        batch = SurfaceNormals(torch.stack([single, -single]).half()[None])
        moved = F.rotate(batch, 30)
        assert (moved.shape, moved.dtype) == ((1, 2, 3, HEIGHT, WIDTH), torch.float16)
        np.testing.assert_allclose(moved[0, 1], -F.rotate(single, 30), atol=2e-3)

    @pytest.mark.parametrize(
        ("data", "error", "message"),
        [
            (torch.zeros(2, 4, 4), ValueError, r"data has shape \(2, 4, 4\); wanted \(\.\.\., 3, H, W\)"),
            (torch.zeros(3, 4, 4, dtype=torch.uint8), TypeError, "decode files with read_normals"),
        ],
    )
    def test_bad_data(self, data, error, message):
        with pytest.raises(error, match=message):
            SurfaceNormals(data)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (torch.eye(4), ValueError, r"intrinsics has shape \(4, 4\)"),
        (torch.eye(3, dtype=torch.int64), TypeError, "intrinsics has dtype torch.int64"),
    ],
)
def test_bad_intrinsics(data, error, message):
    with pytest.raises(error, match=message):
        Intrinsics(data, canvas_size=(4, 4))


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return sample_of(dict) | {"name": str(index)}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_plain_tensors(workers):
    batches = list(DataLoader(Samples(), batch_size=2, num_workers=workers))
    assert [type(batches[0][key]) for key in ("normals", "intrinsics")] == [torch.Tensor] * 2
    assert torch.equal(batches[2]["normals"][0], numbered())
    assert batches[1]["intrinsics"].shape == default_collate([CAMERA, CAMERA]).shape


class TestTrainingTransform:
    def test_random_numbers_are_those_of_torch(self):
        transform = training_transform((12, 16), max_rotation=20)
        results = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            results.append(transform(sample_of(dict)))
        assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])
        assert not torch.equal(results[0]["normals"], results[2]["normals"])

    def test_normals_and_intrinsics_follow(self):
        camera, center = torch.tensor([[140.0, 0, 60], [0, 140, 36], [0, 0, 1]]), np.array([0.3, -0.2, 0.4])
        rendered = torch.from_numpy(inside_of_sphere(camera, center, 80, 120))
        transform = training_transform((72, 96), jitter=0, max_rotation=15)
        mirrored = 0
        for seed in range(8):
            torch.manual_seed(seed)
            sample = transform(
                {
                    "image": Image(rendered),
                    "normals": SurfaceNormals(rendered),
                    "intrinsics": Intrinsics(camera.double(), canvas_size=(80, 120)),
                }
            )
            normals, image = sample["normals"].as_subclass(torch.Tensor), sample["image"]
            # The picture holds the old normals: the orthogonal map from those to the new ones.
            valid = sample["normals"].mask & (image.norm(dim=0) > 0.99)
            u, _, vh = torch.linalg.svd(normals[:, valid] @ image[:, valid].T)
            turn = (u @ vh).numpy()
            mirrored += np.linalg.det(turn) < 0
            expected = inside_of_sphere(sample["intrinsics"].as_subclass(torch.Tensor), turn @ center, 72, 96)
            assert float(angular_error(normals, torch.from_numpy(expected), dim=0)[valid].max()) < 1.5
            assert float(sample["intrinsics"][0, 0] / sample["intrinsics"][1, 1]) == pytest.approx(1, abs=0.03)
        assert 0 < mirrored < 8

    def test_plain_tensors_are_refused(self):
        with pytest.raises(TypeError, match="the sample holds no SurfaceNormals"):
            training_transform((8, 8))({"image": torch.rand(3, 9, 9), "normals": torch.rand(3, 9, 9)})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"size": (0, 8)}, "size="),
            ({"min_scale": 0}, "min_scale=0"),
            ({"max_pan": 50}, "max_pan=50"),
            ({"max_tilt": -1}, "max_tilt=-1"),
            ({"max_rotation": -1}, "max_rotation=-1"),
            ({"jitter": 1}, "jitter=1"),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            training_transform(**{"size": (8, 8), **options})


def rotated_scene(**angles):
    """A picture of a world's colours by direction, with normals that face the camera, before and after a turn."""
    camera, size = torch.tensor([[60.0, 0, 40.3], [0, 62, 28.1], [0, 0, 1]]), (60, 80)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    rays = torch.linalg.solve(camera, torch.stack([x, y, torch.ones_like(x)]).flatten(1))
    rays = torch.nn.functional.normalize(rays, dim=0).view(3, *size)
    sample = {
        "image": Image((rays + 1) / 2),
        "normals": SurfaceNormals(-rays),
        "mask": Mask(torch.ones(size, dtype=torch.bool)),
        "intrinsics": Intrinsics(camera, canvas_size=size),
    }
    return rays, sample, RandomCameraRotation(**angles)(sample)


@pytest.mark.parametrize("angles", [{"pan": 12}, {"tilt": 9}, {"roll": 25}, {"pan": 7, "tilt": 7, "roll": 10}])
def test_the_turned_camera_sees_the_scene(angles):
    torch.manual_seed(1)
    turns = []
    for _ in range(5):
        rays, _, moved = rotated_scene(**angles)
        seen = moved["normals"].mask
        assert seen.float().mean() > 0.4
        # From the middle of a sphere its normals look the same whichever way the camera is turned.
        error = angular_error(moved["normals"].as_subclass(torch.Tensor), -rays, dim=0)[seen]
        half_a_pixel = math.degrees(math.hypot(0.5 / 60, 0.5 / 62))
        assert error.max() < half_a_pixel
        # The colours are directions in the world: those of the normals, turned back, but for that half pixel.
        colours = 2 * moved["image"].as_subclass(torch.Tensor) - 1
        inner = torch.nn.functional.conv2d(seen[None, None].float(), torch.ones(1, 1, 5, 5), padding=2)[0, 0] == 25
        old, new = colours[:, inner].double(), rays[:, inner].double()
        u, _, v = torch.linalg.svd(new @ old.T)
        turn = u @ torch.diag(torch.tensor([1, 1, torch.linalg.det(u @ v)], dtype=torch.float64)) @ v
        assert (turn @ old - new).abs().max() < 1e-3
        turns.append(math.degrees(math.acos((float(turn.trace()) - 1) / 2)))
    assert 1 < max(turns) <= math.hypot(*angles.values()) + 0.1


def test_a_zoom_is_what_the_intrinsics_say():
    torch.manual_seed(3)
    focal = []
    for _ in range(20):
        rays, sample, moved = rotated_scene(pan=8, roll=8, zoom=1.6)
        old, new = (x["intrinsics"].as_subclass(torch.Tensor) for x in (sample, moved))
        factor = float(new[0, 0] / old[0, 0])
        torch.testing.assert_close(
            new,
            torch.diag(torch.tensor([factor, factor, 1.0])) @ old
            + (1 - factor) * (torch.tensor([[0, 0, 1.0], [0, 0, 1], [0, 0, 0]]) * old),
        )
        focal.append(factor)
        y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in rays.shape[1:]), indexing="ij")
        seen = torch.linalg.solve(new, torch.stack([x, y, torch.ones_like(x)]).flatten(1)).view_as(rays)
        valid = moved["normals"].mask
        error = angular_error(moved["normals"].as_subclass(torch.Tensor), -seen, dim=0)[valid]
        assert error.max() < math.degrees(math.hypot(0.5 / 60, 0.5 / 62))
    assert 1 <= min(focal) < 1.15
    assert 1.4 < max(focal) <= 1.6


@pytest.mark.parametrize("size", [(30, 40), (25, 44), (90, 100), (7, 60)])
def test_a_turned_camera_may_take_a_picture_of_another_size(size):
    """All that the smaller or larger picture shows is where its intrinsics say."""
    torch.manual_seed(4)
    for _ in range(8):
        _, _, moved = rotated_scene(pan=8, tilt=5, roll=12, zoom=1.5, size=size)
        assert [tuple(moved[part].shape[-2:]) for part in ("image", "normals", "mask")] == [size] * 3
        assert moved["intrinsics"].canvas_size == size
        camera = moved["intrinsics"].as_subclass(torch.Tensor)
        y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
        new = torch.linalg.solve(camera, torch.stack([x, y, torch.ones_like(x)]).flatten(1))
        new = torch.nn.functional.normalize(new, dim=0).view(3, *size)
        seen = moved["normals"].mask
        assert torch.equal(seen, moved["mask"])
        error = angular_error(moved["normals"].as_subclass(torch.Tensor), -new, dim=0)[seen]
        assert error.max() < math.degrees(math.hypot(0.5 / 60, 0.5 / 62))
        # The colours are directions in the world, by one rotation from those that the new camera sees.
        colours = 2 * moved["image"].as_subclass(torch.Tensor) - 1
        kernel = torch.ones(1, 1, 5, 5)
        inner = torch.nn.functional.conv2d(seen[None, None].float(), kernel, padding=2)[0, 0] == 25
        old, new = colours[:, inner].double(), new[:, inner].double()
        if old.shape[1] < 3:
            continue
        u, _, v = torch.linalg.svd(new @ old.T)
        turn = u @ torch.diag(torch.tensor([1, 1, torch.linalg.det(u @ v)], dtype=torch.float64)) @ v
        assert (turn @ old - new).abs().max() < 5e-3


def test_a_smaller_picture_is_averaged_and_bytes_stay_bytes():
    board = ((torch.arange(60)[:, None] + torch.arange(80)) % 2 * 255).to(torch.uint8).expand(3, 60, 80)
    camera = Intrinsics(torch.tensor([[60.0, 0, 39.5], [0, 60, 29.5], [0, 0, 1]]), canvas_size=(60, 80))
    moved = RandomCameraRotation(size=(15, 20))({"image": Image(board), "intrinsics": camera})["image"]
    assert (moved.dtype, moved.shape) == (torch.uint8, (3, 15, 20))
    assert int(moved.min()) > 110
    assert int(moved.max()) < 145


def test_what_cannot_be_turned_and_resized_at_once_is_refused():
    boxes = BoundingBoxes([[1, 1, 4, 4]], format="XYXY", canvas_size=(60, 80))
    camera = Intrinsics(torch.tensor([[60.0, 0, 39.5], [0, 60, 29.5], [0, 0, 1]]), canvas_size=(60, 80))
    with pytest.raises(TypeError, match="BoundingBoxes cannot be turned and resized"):
        RandomCameraRotation(pan=3, size=(15, 20))({"boxes": boxes, "intrinsics": camera})
    assert len(RandomCameraRotation(pan=3)({"boxes": boxes, "intrinsics": camera})["boxes"]) == 1


def test_every_part_of_a_turned_sample_is_cut_alike():
    torch.manual_seed(2)
    _, sample, moved = rotated_scene(pan=15, tilt=10, roll=10)
    assert torch.equal(moved["mask"], moved["normals"].mask)
    assert (moved["image"].sum(0)[~moved["mask"]] < 3).all()
    torch.testing.assert_close(
        moved["intrinsics"].as_subclass(torch.Tensor), sample["intrinsics"].as_subclass(torch.Tensor)
    )
    assert [type(x) for x in moved.values()] == [Image, SurfaceNormals, Mask, Intrinsics]
    assert [x.dtype for x in moved.values()] == [x.dtype for x in sample.values()]


def test_the_camera_is_turned_alike_for_one_seed_and_not_without_angles():
    def turned(seed, **angles):
        torch.manual_seed(seed)
        return rotated_scene(**angles)[2]["normals"]

    assert torch.equal(turned(1, pan=5), turned(1, pan=5))
    assert not torch.equal(turned(1, pan=5), turned(2, pan=5))
    assert torch.equal(turned(1), rotated_scene()[1]["normals"])


def test_training_transform_turns_the_camera():
    torch.manual_seed(0)
    _, sample, _ = rotated_scene()
    moved = training_transform((30, 40), max_pan=10, max_tilt=10, min_scale=1.0, max_rotation=0)(sample)
    assert moved["normals"].shape == (3, 30, 40)
    assert not moved["normals"].mask.all()


@pytest.mark.parametrize(("size", "left"), [((30, 40), 0), ((30, 30), 10), ((60, 80), 0)])
def test_the_turned_camera_looks_through_the_middle(size, left):
    # A crop elsewhere would show what a turned camera sees, with normals that did not turn.
    torch.manual_seed(0)
    _, sample, _ = rotated_scene()
    focal = []
    for _ in range(20):
        moved = training_transform(size, max_pan=20, min_scale=0.5)(sample)
        camera = moved["intrinsics"].as_subclass(torch.Tensor)
        scale = size[0] / 60
        wanted = (40.3 - left + 0.5) * scale - 0.5
        # Mirrored in half of the cases.
        assert min(abs(float(camera[0, 2]) - x) for x in (wanted, size[1] - 1 - wanted)) < 1e-3
        assert float(camera[1, 2]) == pytest.approx((28.1 + 0.5) * scale - 0.5, abs=1e-3)
        focal.append(float(camera[1, 1]) / (62 * scale))
    assert 1 <= min(focal) < 1.2
    assert 1.25 < max(focal) <= 2**0.5 + 1e-3


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"image": Image(torch.rand(3, 4, 4))}, "intrinsics are missing or unknown.* use v2.RandomRotation"),
        (
            {"image": Image(torch.rand(3, 4, 4)), "k": Intrinsics(torch.full((3, 3), math.nan), canvas_size=(4, 4))},
            "intrinsics are missing or unknown",
        ),
    ],
)
def test_a_camera_that_is_not_known_cannot_be_turned(sample, message):
    with pytest.raises(ValueError, match=message):
        RandomCameraRotation(pan=3)(sample)


@pytest.mark.parametrize(
    "options", [{"pan": -1}, {"tilt": 46}, {"roll": math.nan}, {"zoom": 0.9}, {"zoom": math.inf}, {"size": (0, 4)}]
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))}=.*: wanted (degrees|a factor|\(height)"):
        RandomCameraRotation(**options)


# In a notebook


def shown(html):
    """The pictures in a piece of HTML."""
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)"', html)
    return [np.array(Picture.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_a_notebook_shows_normals_as_colours():
    normals = torch.tensor([0.0, 0.0, -1.0]).view(3, 1, 1).repeat(1, 4, 6)
    normals[:, 0, 0] = 0
    normals[:, 1, 0] = torch.tensor([0.0, -1.0, 0.0])
    html = SurfaceNormals(normals)._repr_html_()
    (picture,) = shown(html)
    assert picture.shape == (4, 6, 4)
    assert picture[0, 1].tolist() == [128, 128, 0, 255]
    assert picture[1, 0].tolist() == [128, 0, 128, 255]
    assert picture[0, 0, 3] == 0
    assert "SurfaceNormals 3 x 4 x 6, float32 on cpu, OPENCV, 95.8 % valid</div>" in html
    assert 'width="126" height="84"' in html


def test_a_notebook_shows_some_of_a_batch_and_fewer_pixels():
    html = SurfaceNormals(torch.randn(10, 3, 3, 1025, dtype=torch.float16))._repr_html_()
    assert [picture.shape for picture in shown(html)] == [(1, 342, 4)] * 8
    assert "the first 8 drawn" in html


@pytest.mark.parametrize("shape", [(3, 0, 4), (0, 3, 2, 2), (2, 2)])
def test_a_notebook_shows_the_text_of_what_is_no_picture(shape):
    assert torch.zeros(shape).as_subclass(SurfaceNormals)._repr_html_() is None


def test_ipython_finds_the_picture():
    formatters = pytest.importorskip("IPython.core.formatters")
    normals = SurfaceNormals(torch.randn(3, 4, 4, requires_grad=True))
    data, _ = formatters.DisplayFormatter().format(normals)
    assert len(shown(data["text/html"])) == 1
