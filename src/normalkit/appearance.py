"""What changes how a picture looks and not what it shows, so that a network learns shapes and not one renderer."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
from PIL import Image as PillowImage
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Image

from normalkit.images import to_pillow

__all__ = ["RandomExposure", "RandomSensor", "appearance_transform"]


class RandomExposure(v2.Transform):
    """Another light and camera: exposure, white balance and contrast curve, drawn anew for each sample.

    Args:
        stops: Largest change of exposure either way, in factors of two.
        cast: Largest change of red and of blue against green, in factors of two.
        gamma: Largest change of the curve: its power is in [1 / gamma, gamma].

    Raises:
        ValueError: `stops` or `cast` is negative or not finite, or `gamma` is below 1.
    """

    def __init__(self, *, stops: float = 1.0, cast: float = 0.4, gamma: float = 1.5) -> None:
        super().__init__()
        for name, value, least in (("stops", stops, 0), ("cast", cast, 0), ("gamma", gamma, 1)):
            if not least <= value < math.inf:
                raise ValueError(f"{name}={value}: wanted a number of at least {least}")
        self.stops, self.cast, self.gamma = stops, cast, gamma

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the changes; see `torchvision.transforms.v2.Transform`."""
        stops, red, blue, power = (2 * torch.rand(4) - 1).tolist()
        gains = torch.tensor([red * self.cast, 0.0, blue * self.cast]) + stops * self.stops
        return {"gains": (2**gains).view(3, 1, 1), "power": self.gamma**power}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change one part of the sample: its picture, float in [0, 1]."""
        if not isinstance(inpt, Image):
            return inpt
        # Gains are those of light, which an sRGB picture holds to about the power 1 / 2.2.
        return Image((inpt.as_subclass(Tensor) ** 2.2 * params["gains"]).clamp(0, 1) ** (params["power"] / 2.2))


class RandomSensor(v2.Transform):
    """Another lens, sensor and file: lost resolution, blur, noise, and JPEG's blocks; each drawn for each sample.

    Args:
        shrink: Largest factor that the picture is made smaller by, before it is enlarged again; 1 for none.
        blur: Largest standard deviation of a Gaussian blur, pixels.
        noise: Largest standard deviation of noise, of the range [0, 1].
        quality: Lowest quality of JPEG, 1 to 100; half of the pictures are left as they are.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, *, shrink: float = 2.0, blur: float = 1.5, noise: float = 0.06, quality: int = 30) -> None:
        super().__init__()
        for name, value, least in (("shrink", shrink, 1), ("blur", blur, 0), ("noise", noise, 0)):
            if not least <= value < math.inf:
                raise ValueError(f"{name}={value}: wanted a number of at least {least}")
        if not 1 <= quality <= 100:
            raise ValueError(f"quality={quality}: wanted 1 to 100")
        self.shrink, self.blur, self.noise, self.quality = shrink, blur, noise, quality

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the losses; see `torchvision.transforms.v2.Transform`."""
        shrink, blur, noise, quality = torch.rand(4).tolist()
        chosen = (torch.rand(4) < 0.5).tolist()
        return {
            "shrink": self.shrink**shrink if chosen[0] else 1.0,
            "blur": self.blur * blur if chosen[1] else 0.0,
            "noise": self.noise * noise if chosen[2] else 0.0,
            "quality": round(self.quality + (100 - self.quality) * quality) if chosen[3] else None,
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change one part of the sample: its picture, float in [0, 1]."""
        if not isinstance(inpt, Image):
            return inpt
        picture = inpt.as_subclass(Tensor)
        size = list(picture.shape[-2:])
        if params["shrink"] > 1:
            small = [max(round(side / params["shrink"]), 1) for side in size]
            picture = F.resize(F.resize(picture, small, antialias=True), size, antialias=False)
        if params["blur"] > 0.2:  # Less than that is none.
            side = 2 * math.ceil(2 * params["blur"]) + 1
            picture = F.gaussian_blur(picture, [side, side], [params["blur"]] * 2)
        picture = (picture + params["noise"] * torch.randn_like(picture)).clamp(0, 1)
        if params["quality"] is not None:
            picture = _through_jpeg(picture, params["quality"])
        return Image(picture)


def appearance_transform() -> v2.Compose:
    """Everything above with its defaults, and colours: hue, saturation, grey pictures, channels in another order.

    For training on drawn pictures, or for cameras unlike those of the training data; behind
    `normalkit.transforms.training_transform`, whose own `jitter` is then 0. Normals, mask and intrinsics stay.

    Returns:
        A transform of a sample dict of tv_tensors.
    """
    return v2.Compose(
        [
            v2.ToDtype({Image: torch.float32, "others": None}, scale=True),
            v2.RandomApply([v2.RandomChannelPermutation()], 0.1),
            v2.ColorJitter(contrast=0.4, saturation=0.6, hue=0.08),
            RandomExposure(),
            v2.RandomGrayscale(0.1),
            RandomSensor(),
        ]
    )


def _through_jpeg(picture: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    to_pillow(picture).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(PillowImage.open(file))).permute(2, 0, 1) / 255
