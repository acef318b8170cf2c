"""The guess against rooms whose axes are known, and its evidence against slow loops."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from normalkit import SyntheticRooms
from normalkit.axes import contradiction, guess_convention, view_rays
from normalkit.codec import normals_to_rgb, rgb_to_normals
from normalkit.data.rgbd import RGBDNormals
from normalkit.geometry import Convention

# By hand, not from `Convention`: where each component points.
AXES = {
    "OPENCV": ("right", "down", "forward"),
    "OPENGL": ("right", "up", "to the viewer"),
    "DSINE": ("left", "up", "to the viewer"),
    "TASKONOMY": ("right", "down", "to the viewer"),
}
DIRECTIONS = {
    "right": (1, 0, 0),
    "left": (-1, 0, 0),
    "down": (0, 1, 0),
    "up": (0, -1, 0),
    "forward": (0, 0, 1),
    "to the viewer": (0, 0, -1),
}


@pytest.fixture(scope="module")
def rooms():
    made = SyntheticRooms(6, size=(48, 64), seed=3)
    return [made[i] for i in range(6)]


def in_axes(normals, axes):
    """OPENCV normals (3, H, W) as components along the named directions."""
    basis = torch.tensor([DIRECTIONS[name] for name in axes], dtype=normals.dtype)
    return torch.einsum("ij,jhw->ihw", basis, normals)


def ball(axes):
    """A ball of half a metre's radius, 5 m away: normals along the named directions, mask, intrinsics and depth."""
    focal = 200.0
    matrix = torch.tensor([[focal, 0, 39.5], [0, focal, 29.5], [0, 0, 1]])
    v, u = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    rays = torch.stack([(u - 39.5) / focal, (v - 29.5) / focal, torch.ones(60, 80)])
    # |t ray - (0, 0, 5)| = 0.5
    a, b, c = (rays**2).sum(0), -10 * rays[2], 25 - 0.25
    root = b**2 - 4 * a * c
    mask = root > 0
    depth = torch.where(mask, (-b - root.clamp_min(0).sqrt()) / (2 * a), 0)
    normals = torch.where(mask, (depth * rays - torch.tensor([0.0, 0, 5]).view(3, 1, 1)) / 0.5, 0)
    return in_axes(normals, axes)[None], mask[None], matrix, depth[None, None]


class TestGuess:
    @pytest.mark.parametrize("name", AXES)
    @pytest.mark.parametrize("known", [True, False])
    def test_every_convention_is_recognised_in_rooms(self, rooms, name, known):
        normals = [in_axes(room["normals"], AXES[name]) for room in rooms]
        cameras = [room["intrinsics"] for room in rooms] if known else None
        guesses = guess_convention(normals, [room["mask"] for room in rooms], cameras)
        assert (guesses[0].name, guesses[0].axes) == (name, AXES[name])
        assert guesses[0].sureness > 0.99
        assert guesses[0].facing > (0.9999 if known else 0.99)
        assert len(guesses) == 48

    @pytest.mark.parametrize("name", AXES)
    def test_in_single_rooms_in_8_bits(self, rooms, name):
        for room in rooms:
            stored = normals_to_rgb(in_axes(room["normals"], AXES[name]), room["mask"])
            read, mask = rgb_to_normals(stored)
            assert guess_convention(read[None], mask[None])[0].name == name

    def test_all_orders_and_signs(self, rooms):
        pairs = (("right", "left"), ("down", "up"), ("forward", "to the viewer"))
        every = [axes for order in itertools.permutations(pairs) for axes in itertools.product(*order)]
        assert len(set(every)) == 48
        for axes in every:
            guesses = guess_convention([in_axes(room["normals"], axes) for room in rooms[:2]])
            assert guesses[0].axes == axes
            assert {guess.axes for guess in guesses} == set(every)

    def test_channels_in_the_order_bgr_are_named(self, rooms):
        best = guess_convention([in_axes(room["normals"], AXES["OPENGL"]).flip(0) for room in rooms])[0]
        assert best.convention is None
        assert best.name == "OPENGL with the channels in the order BGR"

    def test_a_wall_seen_head_on_cannot_tell_x_from_y(self):
        wall = torch.tensor([0.0, 0, -1]).view(1, 3, 1, 1).expand(1, 3, 20, 30)
        guesses = guess_convention(wall)
        # Eight orders and signs of x and y, of which one is known.
        assert [guess.sureness for guess in guesses[:9]] == pytest.approx([1 / 8] * 8 + [0])
        assert guesses[0].convention is Convention.OPENCV
        assert all(guess.axes[2] == "forward" for guess in guesses[:8])
        assert math.isnan(guesses[0].walls)

    def test_sureness_is_a_share(self, rooms):
        guesses = guess_convention([rooms[0]["normals"]])
        assert sum(guess.sureness for guess in guesses) == pytest.approx(1)
        assert [g.sureness for g in guesses] == sorted((g.sureness for g in guesses), reverse=True)

    def test_pictures_of_several_sizes_and_masked_ones(self, rooms):
        small = rooms[0]["normals"][:, ::2, ::2]
        wrong = torch.tensor([0.0, 0, 1]).view(3, 1, 1).expand(3, 48, 64)
        nothing = torch.zeros(48, 64, dtype=torch.bool)
        masks = [rooms[0]["mask"][::2, ::2], rooms[1]["mask"], nothing]
        best = guess_convention([small, rooms[1]["normals"], wrong], masks)[0]
        assert (best.name, best.facing) == ("OPENCV", pytest.approx(1, abs=5e-3))


class TestEvidence:
    def test_shares_are_those_of_a_loop(self, rooms):
        room = rooms[2]
        height, width = room["mask"].shape
        normals = room["normals"].double().numpy()
        inverse = np.linalg.inv(room["intrinsics"].double().numpy())
        for name in ("OPENCV", "DSINE"):
            facing, count, sums = 0, 0, np.zeros((2, 2))
            basis = np.array([DIRECTIONS[axis] for axis in AXES[name]])
            for v, u in itertools.product(range(height), range(width)):
                if not room["mask"][v, u]:
                    continue
                ray = inverse @ [u, v, 1]
                # The file is OPENCV; read as `name`, its components go along that one's axes.
                normal = basis.T @ normals[:, v, u]
                count += 1
                facing += normal @ ray < 0
                for axis in (0, 1):
                    product = normal[axis] * ray[axis]
                    sums[axis] += max(0, -product), abs(product)
            guesses = guess_convention([room["normals"]], [room["mask"]], room["intrinsics"])
            guess = next(guess for guess in guesses if guess.name == name)
            assert guess.facing == pytest.approx(facing / count, abs=1e-9)
            assert (guess.walls, guess.floors) == pytest.approx(tuple(sums[:, 0] / sums[:, 1]), abs=1e-5)

    def test_an_object_seen_from_outside_needs_depth(self):
        """A ball's left side faces left, so that custom misleads, and only depth tells."""
        stored, mask, matrix, depth = ball(AXES["OPENGL"])
        assert guess_convention(stored, mask, matrix)[0].name != "OPENGL"
        guesses = guess_convention(stored, mask, matrix, depths=depth)
        assert guesses[0].name == "OPENGL"
        assert guesses[0].sureness > 0.99
        assert guesses[0].depth < 15
        assert guesses[1].depth > 25

    def test_rays_against_the_matrix_s_inverse(self):
        matrix = torch.tensor([[50.0, 1.5, 20], [0, 60, 10], [0, 0, 1]])
        rays = view_rays(30, 40, matrix)
        for u, v in ((0, 0), (39, 29), (7, 12)):
            expected = np.linalg.inv(matrix.numpy().astype(float)) @ [u, v, 1]
            np.testing.assert_allclose(rays[:, v, u], expected, atol=1e-6)
        for unknown in (None, torch.full((3, 3), torch.nan)):
            assumed = view_rays(30, 40, unknown)
            # The borders of the picture, half a pixel outside the outer centres, are 60 degrees apart.
            step = assumed[0, 0, 1] - assumed[0, 0, 0]
            edge = assumed[0, 0, -1] + step / 2
            assert math.degrees(2 * math.atan(edge)) == pytest.approx(60, abs=1e-3)


class TestContradiction:
    def test_names_both_and_the_shares(self, rooms):
        guesses = guess_convention([in_axes(room["normals"], AXES["OPENGL"]) for room in rooms])
        assert contradiction(guesses, Convention.OPENGL) is None
        for declared in (Convention.OPENCV, Convention.DSINE, Convention.TASKONOMY):
            message = contradiction(guesses, declared)
            mine = next(guess for guess in guesses if guess.convention is declared)
            assert message.startswith("they look like OPENGL (x right, y up, z to the viewer): so ")
            assert f"{guesses[0].facing:.1%} of the surfaces face the camera" in message
            assert f"but as {declared.name} {mine.facing:.1%}" in message

    def test_is_silent_where_the_data_cannot_tell(self):
        slant = torch.tensor([0.1, -0.3, -0.95]).view(1, 3, 1, 1).expand(1, 3, 40, 40)
        flipped = slant * torch.tensor([1.0, -1, 1]).view(1, 3, 1, 1)
        for normals in (slant, flipped):
            assert contradiction(guess_convention(normals), Convention.OPENCV) is None

    def test_custom_alone_contradicts_nothing(self):
        stored, mask, matrix, _ = ball(AXES["OPENGL"])
        guesses = guess_convention(stored, mask, matrix)
        # Wrong and sure of it: but as much of the ball faces the camera either way.
        assert guesses[0].name == "DSINE" or guesses[0].convention is None
        assert guesses[0].sureness > 0.99
        assert contradiction(guesses, Convention.OPENGL) is None

    def test_a_guess_that_is_not_sure_contradicts_nothing(self, rooms):
        guesses = guess_convention([in_axes(room["normals"], AXES["OPENGL"]) for room in rooms])
        unsure = [replace(guesses[0], sureness=0.98), *guesses[1:]]
        assert contradiction(unsure, Convention.DSINE) is None


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"normals": torch.zeros(2, 3, 4, 4)}, "no valid pixel in any picture"),
            ({"normals": []}, "no valid pixel in any picture"),
            ({"normals": torch.ones(3, 4, 4)}, r"normals of shape \(4, 4\): wanted \(3, H, W\)"),
            ({"normals": torch.ones(2, 3, 4, 4), "masks": torch.ones(1, 4, 4) > 0}, "masks: 1 for 2 pictures"),
            ({"normals": torch.ones(1, 3, 4, 4), "depths": torch.ones(1, 1, 4, 4)}, "depths: need intrinsics"),
        ],
    )
    def test_unfit_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            guess_convention(**arguments)


@pytest.mark.parametrize("name", AXES)
def test_real_frames(real_data, tmp_path, name):
    kitchen = RGBDNormals(real_data / "red_kitchen" / "val", cache=tmp_path)
    samples = [kitchen[i] for i in range(0, 55, 9)]
    normals = [in_axes(sample["normals"], AXES[name]) for sample in samples]
    masks = [sample["mask"] for sample in samples]
    best = guess_convention(normals, masks)[0]
    assert (best.name, best.sureness) == (name, pytest.approx(1, abs=0.01))
    # Each by itself too, though not as surely.
    assert all(guess_convention([n], [m])[0].name == name for n, m in zip(normals, masks, strict=True))
