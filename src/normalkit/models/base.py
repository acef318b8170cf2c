"""What networks share: saving and image statistics; and normal estimators: input checks, padding, unit output."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from normalkit import geometry
from normalkit.nn.folding import fold_batch_norm
from normalkit.scaling import scaled_size

if TYPE_CHECKING:
    from normalkit.models.hub import HubOptions

__all__ = ["ImageModel", "NormalEstimator"]


MAX_RESOLUTION = 10_000
"""Pixels; a checkpoint that asks for more is broken or hostile."""


class ImageModel(nn.Module):
    """A network that can be saved, loaded and built again, and that normalises its images itself.

    Args:
        config: The subclass's constructor arguments, with which `load_model` builds it again; without
            `pretrained`, and of types that JSON has.
        image_mean: Mean per RGB channel that images in [0, 1] are normalised with.
        image_std: Standard deviation per RGB channel.

    Attributes:
        config: The same, with the statistics.

    Raises:
        ValueError: The statistics are not three finite numbers each, or a deviation is not positive.
        TypeError: They are no sequences of numbers.
    """

    image_mean: Tensor
    image_std: Tensor
    is_optimized: bool = False
    """Whether `optimized` made this model, which then cannot be trained or saved."""

    def __init__(self, *, config: Mapping[str, Any], image_mean: Sequence[float], image_std: Sequence[float]) -> None:
        super().__init__()
        mean = _channel_statistics("image_mean", image_mean)
        std = _channel_statistics("image_std", image_std)
        if min(std) <= 0:
            raise ValueError(f"image_std={std}: wanted positive numbers")
        self.config: dict[str, Any] = {**config, "image_mean": mean, "image_std": std}
        # The config carries them, so the state dict need not.
        self.register_buffer("image_mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def standardize(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], in the network's dtype, less their mean and over their deviation."""
        return (images.to(self.image_mean.dtype) - self.image_mean) / self.image_std

    def optimized(self) -> Self:
        """A copy for inference alone, faster and with the same answers to 1e-4 and better.

        Batch norm is folded into the convolution or linear layer before it, wherever one follows the other directly
        (`fold_batch_norm`), and weights are laid out with channels last. `torch.compile` and export take it like any
        model.

        Returns:
            A model in eval mode on the same device; training or saving it is an error.

        Examples:
            >>> from normalkit import UNetNormals
            >>> model = UNetNormals("test_resnet", pretrained=False).eval()
            >>> images = torch.rand(1, 3, 40, 50)
            >>> torch.allclose(model.optimized()(images), model(images), atol=1e-4)
            True
        """
        fast = copy.deepcopy(self).eval().requires_grad_(False)
        fold_batch_norm(fast, fast._run_smallest)
        fast.is_optimized = True
        return fast.to(memory_format=torch.channels_last)

    def _run_smallest(self) -> None:
        """Call the network itself on the smallest images that it takes."""
        raise NotImplementedError(f"{type(self).__name__} has no smallest images; it cannot be optimized")

    def train(self, mode: bool = True) -> Self:
        """As of any module.

        Raises:
            ValueError: `optimized` made the model, and `mode` is True.
        """
        if mode and self.is_optimized:
            raise ValueError("an optimized model cannot be trained, its batch norm is gone; train the one it came from")
        return super().train(mode)

    def run_network(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """The network's answer; batch norm with a single value per channel to train on is an error with its mend.

        Args:
            network: Of this model, and of the images.
            images: (B, 3, H, W), normalised.

        Raises:
            ValueError: Batch norm is to train on one value per channel.
        """
        try:
            return network(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            size = " x ".join(map(str, images.shape[2:]))
            raise ValueError(
                f"images: a single one of {size} (padded) leaves batch norm one value per channel, and it cannot train "
                "on one; use two or more images in a batch, larger images, or `model.eval()`"
            ) from error

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        metadata: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Write the weights, the config and a card to a folder: `normalkit.models.checkpoint.save_model`.

        Args:
            folder: The folder to write or replace; its parent must exist.
            metadata: More entries for `config.json`, such as the training data; the card shows `data` and `metrics`.
            dtype: Floating point for the weights in the file; None for the model's own.
        """
        from normalkit.models.checkpoint import save_model

        save_model(folder, self, metadata=metadata, dtype=dtype)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, device: str | torch.device = "cpu", **hub: Unpack[HubOptions]
    ) -> Self:
        """Load a model of this class: `normalkit.models.checkpoint.load_model`.

        Args:
            source: A folder written by `save_pretrained`, or `owner/name` of a model on the Hub.
            device: Where to put it.
            hub: `revision`, `cache_dir`, `token` and `local_files_only`, as `normalkit.models.hub.find_checkpoint`
                takes them.

        Returns:
            The model, in eval mode.

        Raises:
            ValueError: The folder holds a model of another class, or is no valid checkpoint.
            OSError: The folder, or a file in it, is missing or cannot be read; or the Hub has no such model, or
                cannot be reached.
        """
        from normalkit.models.checkpoint import load_as

        return load_as(cls, source, device=device, **hub)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        commit_message: str = "Push model using normalkit",
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face Hub.

        Figures that a checkpoint has do not go with the loaded model: `normalkit.models.hub.upload_checkpoint` uploads
        the checkpoint's folder with them.

        Args:
            repo_id: `owner/name`, or a name of yours; the repository is made if there is none.
            metadata: As `save_pretrained` takes them.
            dtype: As `save_pretrained` takes it.
            commit_message: As `normalkit.models.hub.upload_checkpoint` takes it, and so the rest.
            private: Whether a new repository is private.
            token: One that may write.
            branch: The branch to commit to.
            create_pr: Open a pull request instead of committing.

        Returns:
            The address of the commit.

        Raises:
            PermissionError: The token may not write there, or there is none.
            OSError: The Hub cannot be reached, or refuses.
            ValueError: `repo_id` is no name of a repository, or what `save_pretrained` refuses.
        """
        from normalkit.models.hub import upload_checkpoint

        with TemporaryDirectory() as temporary:
            folder = Path(temporary, "model")
            self.save_pretrained(folder, metadata=metadata, dtype=dtype)
            return upload_checkpoint(
                folder,
                repo_id,
                commit_message=commit_message,
                private=private,
                token=token,
                branch=branch,
                create_pr=create_pr,
            )


class NormalEstimator(ImageModel, ABC):
    """A network from images to surface normals; subclasses give `raw_map`.

    Args:
        config: The subclass's constructor arguments, with which `load_model` builds it again; without
            `pretrained`, and of types that JSON has.
        stride: The image's sides are padded to multiples of this.
        image_mean: Mean per RGB channel that images in [0, 1] are normalised with.
        image_std: Standard deviation per RGB channel.
        normalize: Whether the output is unit vectors; False gives the raw map.
        resolution: Pixels of the longer side that images are scaled to for the network, whose map is then scaled
            back; None leaves them as they are. A network knows objects in the size that it was trained on.
        concentration: What the length of the raw map is multiplied with to say how sure the network is of the
            direction; None for one that was not trained to say so. See `normalkit.uncertainty`.

    Attributes:
        config: The same, with all the others but `stride`.
        stride: The same.
        normalize: The same; may be changed.
        resolution: The same; may be changed.
        concentration: The same; may be changed.

    Raises:
        ValueError: The statistics are not three finite numbers each, a deviation is not positive, or `resolution` is
            out of range, or `concentration` is not positive.
        TypeError: `normalize` is not a boolean, `resolution` no integer, or `concentration` no number.
    """

    def __init__(
        self,
        *,
        config: Mapping[str, Any],
        stride: int,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        normalize: bool = True,
        resolution: int | None = None,
        concentration: float | None = None,
    ) -> None:
        if not isinstance(normalize, bool):
            raise TypeError(f"normalize={normalize!r}: wanted True or False")
        if resolution is not None and type(resolution) is not int:
            raise TypeError(f"resolution={resolution!r}: wanted a whole number of pixels, or None")
        if resolution is not None and not 1 <= resolution <= MAX_RESOLUTION:
            raise ValueError(
                f"resolution={resolution}: wanted at least one pixel and at most {MAX_RESOLUTION}, or None for images "
                "as they are"
            )
        if concentration is not None and type(concentration) not in (int, float):
            raise TypeError(f"concentration={concentration!r}: wanted a number, or None")
        if concentration is not None and not 0 < concentration < math.inf:
            raise ValueError(f"concentration={concentration!r}: wanted a positive number, or None")
        sure = {} if concentration is None else {"concentration": concentration}
        super().__init__(
            config={**config, "normalize": normalize, "resolution": resolution, **sure},
            image_mean=image_mean,
            image_std=image_std,
        )
        self.stride = stride
        self.normalize = normalize
        self.resolution = resolution
        self.concentration = concentration

    def forward(self, images: Tensor, *, normalize: bool | None = None) -> Tensor:
        """Estimate the normals of a batch of images of any size.

        The image is scaled to `resolution`, if there is one, and padded on the right and at the bottom, by
        replication, to multiples of `stride`; the map is cropped, and scaled back.

        Args:
            images: (B, 3, H, W), RGB, floating point in [0, 1].
            normalize: False for the raw map, True for unit vectors; None as the model was built.

        Returns:
            (B, 3, H, W), `Convention.OPENCV`, float32 also under autocast (float64 from a float64 model). Unit
            vectors; one that is zero stays so, and one that is not finite is NaN: metrics count both as invalid.

        Raises:
            ValueError: The shape is another, or a training batch leaves batch norm a single value per channel.
            TypeError: The images are not a floating-point tensor.
        """
        _check_images(images)
        size = images.shape[-2:]
        images = self.standardize(self._to_resolution(images))
        height, width = images.shape[-2:]
        right, bottom = ((side + self.stride - 1) // self.stride * self.stride - side for side in (width, height))
        images = functional.pad(images, (0, right, 0, bottom), mode="replicate")
        # Whatever the layout of the maps, planes: what follows, and the loss, reduce over the components.
        raw = _crop(self.run_network(self.raw_map, images), height, width).contiguous()
        if raw.dtype != torch.float64:
            raw = raw.float()
        if self._rescales(raw.shape[-2:], size):
            raw = functional.interpolate(raw, size, mode="bilinear", align_corners=False)
        if not (self.normalize if normalize is None else normalize):
            return raw
        # A NaN stays one, so that a loss of it stops the training instead of going on without those pixels.
        finite = raw.detach().abs().amax(1, keepdim=True) < math.inf
        return torch.where(finite, geometry.normalize(raw), math.nan)

    def _to_resolution(self, images: Tensor) -> Tensor:
        if self.resolution is None:
            return images
        sides = images.shape[-2:]
        size = scaled_size(sides, self.resolution)
        if not self._rescales(sides, size):
            return images
        if torch.compiler.is_exporting():
            down, across = (_antialiasing(*ends, images) for ends in zip(sides, size, strict=True))
            return down @ images @ across.T
        return functional.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)

    def _rescales(self, before: Sequence[int], after: Sequence[int]) -> bool:
        # An exported program has one way for every size; scaled to its own, a map stays what it is.
        if torch.compiler.is_exporting():
            return self.resolution is not None
        return tuple(before) != tuple(after)

    @abstractmethod
    def raw_map(self, images: Tensor) -> Tensor:
        """The network itself.

        Args:
            images: (B, 3, H, W), normalised; H and W multiples of `stride`.

        Returns:
            (B, 3, H, W), of any length.
        """

    def _run_smallest(self) -> None:
        self.raw_map(self.image_mean.new_zeros(1, 3, self.stride, self.stride))


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images is a {type(images).__name__}; wanted a tensor (B, 3, H, W): "
            "`normalkit.predict(model, image)` takes paths, pictures and arrays"
        )
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        mend = "; add the batch axis with `images[None]`" if images.ndim == 3 else ""
        raise ValueError(f"images has shape {tuple(images.shape)}; wanted (B, 3, H, W), none of them 0{mend}")
    if not images.is_floating_point():
        raise TypeError(f"images has dtype {images.dtype}; wanted floating point in [0, 1]: divide uint8 images by 255")


def _crop(raw: Tensor, height: int, width: int) -> Tensor:
    if not torch.compiler.is_exporting():
        return raw[..., :height, :width]
    # A slice would make the exported program hold only for sides that are not multiples of the stride.
    rows, columns = (torch.arange(side, device=raw.device) for side in (height, width))
    return raw.index_select(-2, rows).index_select(-1, columns)


def _antialiasing(before: int, after: int, images: Tensor) -> Tensor:
    """Along one axis what `interpolate(mode="bilinear", antialias=True)` does, as a matrix (after, before).

    For exported programs: of `interpolate` itself onnxscript 0.6 makes a file that weighs the border wrongly.
    """
    scale = before / after
    places, centres = (torch.arange(side, dtype=images.dtype, device=images.device) + 0.5 for side in (before, after))
    reach: Any = torch.sym_max(scale, 1.0)
    away = (places - scale * centres[:, None]).abs() / reach
    weights: Tensor = (1 - away).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def _channel_statistics(name: str, numbers: Sequence[float]) -> list[float]:
    sequence = isinstance(numbers, Sequence) and not isinstance(numbers, str)
    if not sequence or any(type(number) not in (int, float) for number in numbers):
        raise TypeError(f"{name}={numbers!r}: wanted three numbers, one for each of R, G, B")
    if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{name}={tuple(numbers)}: wanted three finite numbers, one for each of R, G, B")
    return [float(number) for number in numbers]
