"""Batches of labelled images made where the images are, faster than any network takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from normalkit.data.labeled import LabeledImages
from normalkit.data.loader import check_batch_size, mix_seeds, process_rank

__all__ = ["DeviceLoader", "Flip", "device_evaluation_loader", "device_training_loader"]

Flip = Literal["alternating", "random", "none"]

_FLIPS = ("alternating", "random", "none")


class DeviceLoader:
    """Batches of images that stay on their device as uint8; see the two functions that make it.

    A batch is a dict: `image` (B, 3, H, W) float32 in [0, 1] and `label` (B,) int64.

    Args:
        data: On any device.
        order: (M,) int64: the samples, batch after batch.
        batch_size: Samples a batch; the last one may have fewer.
        moves: (M, 3) int64, for each place in the order: how many pixels below and how many right of the image's
            corner the window begins that is cut out of it, each less than the image's side, and 1 where the window
            is mirrored, else 0. Outside the image its reflection is seen. None leaves the images as they are.
        cutout: Side of a square, in pixels, that is filled with its window's mean colour; 0 for none.
        corners: (M, 2) int64, for each place in the order: row and column of the square's first pixel in the window,
            whose border cuts off what lies outside.
    """

    def __init__(
        self,
        data: LabeledImages,
        order: Tensor,
        *,
        batch_size: int,
        moves: Tensor | None = None,
        cutout: int = 0,
        corners: Tensor | None = None,
    ) -> None:
        device = data.images.device
        self.data = data
        self.order = order.to(device)
        self.batch_size = batch_size
        self.moves = None if moves is None else moves.to(device)
        self.cutout = cutout
        self.corners = None if corners is None else corners.to(device)

    def __len__(self) -> int:
        """The number of batches."""
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """One batch after another; the same ones each time."""
        for start in range(0, len(self.order), self.batch_size):
            batch = slice(start, start + self.batch_size)
            images = self.data.images.index_select(0, self.order[batch])
            if self.moves is not None:
                images = _cut_and_mirror(images, self.moves[batch])
            images = images.float().div_(255)
            if self.corners is not None:
                images = _fill_square(images, self.corners[batch], self.cutout)
            yield {"image": images, "label": self.data.labels.index_select(0, self.order[batch])}


def device_training_loader(
    data: LabeledImages,
    *,
    batch_size: int,
    epoch: int,
    seed: int,
    padding: int = 4,
    flip: Flip = "alternating",
    cutout: int = 0,
    views: int = 1,
) -> DeviceLoader:
    """The batches of one epoch, shuffled, shifted and flipped: the same whenever the same epoch is asked for.

    Every sample has draws of its own, made on the CPU and from `seed` and `epoch` alone, so that they are the same
    on every device and in batches of any size. The last, smaller batch is left out. In several processes each gets
    every n-th batch, and all equally many.

    Args:
        data: The training images, on the device that they are to be used on.
        batch_size: Samples a batch in each process, every view counted.
        epoch: From 0.
        seed: Of the run.
        padding: Pixels of its reflection that are put around an image before a window of its own size is cut out at
            random, any one of (2 * padding + 1)^2; 0 for none.
        flip: "random" mirrors each sample with a chance of one half; "alternating" does so in the first epoch, and in
            every other the opposite of the one before, so that two epochs show both sides of each sample (Keller
            Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498); or "none".
        cutout: Side of a square, in pixels, that is filled with the mean colour of its picture; its middle is any
            pixel of it, and the border cuts off the rest (DeVries and Taylor, arXiv 1708.04552); 0 for none.
        views: How many times each sample is in its batch, side by side, every time with draws of its own: an epoch
            shows together what as many epochs of one view show apart, both mirror images among them where flips
            alternate, and takes as many times as long (Hoffer et al., "Augment Your Batch", arXiv 1901.09335).

    Raises:
        ValueError: The batch size exceeds the number of samples, the padding is not below the image's sides, the
            square is larger than the image, the views do not divide the batch, or another argument is out of range.

    Examples:
        >>> data = LabeledImages(torch.zeros(10, 3, 8, 8, dtype=torch.uint8), torch.arange(10) % 2, ("cat", "dog"))
        >>> [batch["image"].shape for batch in device_training_loader(data, batch_size=4, epoch=0, seed=0)]
        [torch.Size([4, 3, 8, 8]), torch.Size([4, 3, 8, 8])]
    """
    rank, world = process_rank()
    size, side = len(data), min(data.images.shape[2:])
    if views < 1 or batch_size % views:
        raise ValueError(f"views={views}: wanted at least 1, and a divisor of batch_size={batch_size}")
    check_batch_size(batch_size, size * views, world)
    if not 0 <= padding < side:
        raise ValueError(f"padding={padding}: wanted 0 to {side - 1}; a reflection is smaller than the image's {side}")
    if not 0 <= cutout <= side:
        raise ValueError(f"cutout={cutout}: wanted 0 to the image's {side}")
    if flip not in _FLIPS:
        raise ValueError(f"flip={flip!r}: wanted {', '.join(_FLIPS[:-1])} or {_FLIPS[-1]}")
    for name, number in (("epoch", epoch), ("seed", seed)):
        if number < 0:
            raise ValueError(f"{name}={number}: wanted at least 0")
    passes = range(epoch * views, (epoch + 1) * views)
    orders, moves = zip(*(_order_and_moves(size, seed, number, padding, flip) for number in passes), strict=True)
    samples = batch_size // views
    every = orders[0][: size // samples * samples].view(-1, samples)
    mine = every[rank : len(every) // world * world : world].flatten()

    def of_batches(draws: Iterable[Tensor]) -> Tensor:
        return torch.stack([each[mine] for each in draws], dim=1).flatten(0, 1)

    return DeviceLoader(
        data,
        mine.repeat_interleave(views),
        batch_size=batch_size,
        moves=of_batches(moves) if padding or flip != "none" else None,
        cutout=cutout,
        corners=of_batches(_corners(data, cutout, seed, number) for number in passes) if cutout else None,
    )


def device_evaluation_loader(data: LabeledImages, *, batch_size: int = 1000) -> DeviceLoader:
    """All samples in order, as they are, none twice and none left out; in several processes each gets its share.

    Args:
        data: The images, on the device that they are to be used on.
        batch_size: Samples a batch; the last one may have fewer.

    Raises:
        ValueError: The batch size is below 1, or there are fewer images than processes.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: wanted at least 1")
    rank, world = process_rank()
    if len(data) < world:
        # In all of them: one that had none would leave the others waiting for it.
        raise ValueError(f"data: {len(data)} images for {world} processes; start at most as many as there are images")
    return DeviceLoader(data, torch.arange(len(data))[rank::world], batch_size=batch_size)


def _cut_and_mirror(images: Tensor, moves: Tensor) -> Tensor:
    """A window of each image, (B, 3, H, W), at its own place; `moves` is (B, 3) as `DeviceLoader` has it.

    One index for each pixel, the same for its three channels: as fast as copies of windows out of padded images,
    without the memory that those take.
    """
    batch, channels, height, width = images.shape
    down, right, mirrored = moves.unsqueeze(1).unbind(2)
    columns = torch.arange(width, device=images.device)
    columns = torch.where(mirrored == 1, columns.flip(0), columns)
    rows = _reflect(torch.arange(height, device=images.device) + down, height)
    index = (rows[:, :, None] * width + _reflect(columns + right, width)[:, None]).view(batch, 1, -1)
    return images.flatten(2).gather(2, index.expand(-1, channels, -1)).view(images.shape)


def _order_and_moves(size: int, seed: int, number: int, padding: int, flip: Flip) -> tuple[Tensor, Tensor]:
    """(N,) and (N, 3), as `DeviceLoader` has them: the draws of the pass over the data with a number."""
    generator = _generator(seed, number, 0)
    order = torch.randperm(size, generator=generator)
    shifts = torch.randint(-padding, padding + 1, (size, 2), generator=generator)
    mirrored = torch.zeros(size, dtype=torch.int64)
    if flip != "none":
        first = _generator(seed, 0, 1) if flip == "alternating" else generator
        mirrored = torch.randint(2, (size,), generator=first)
    if flip == "alternating" and number % 2:
        mirrored = 1 - mirrored
    return order, torch.cat([shifts, mirrored[:, None]], dim=1)


def _corners(data: LabeledImages, cutout: int, seed: int, number: int) -> Tensor:
    """(N, 2): where each image's square begins, so that its middle is any pixel; the other draws stay as they are."""
    generator = _generator(seed, number, 2)
    middles = [torch.randint(side, (len(data),), generator=generator) for side in data.images.shape[2:]]
    return torch.stack(middles, dim=1) - cutout // 2


def _fill_square(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """The images, (B, 3, H, W), each with a square of its own mean colour, of which the corner is (B, 2)."""
    inside = []
    for axis, length in enumerate(images.shape[2:]):
        distance = torch.arange(length, device=images.device) - corners[:, axis, None]
        inside.append((distance >= 0) & (distance < side))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(square, images.mean((2, 3), keepdim=True), images)


def _reflect(places: Tensor, side: int) -> Tensor:
    """Places in (-side, 2 * side - 1) as those of the pixels seen there, the outermost of which is not repeated."""
    return side - 1 - (side - 1 - places.abs()).abs()


def _generator(*numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(mix_seeds(*numbers))
