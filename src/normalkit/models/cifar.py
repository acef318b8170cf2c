"""The report's two networks for CIFAR-10: BaseNet, and the improved net with its ablations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from normalkit.models.base import ImageModel

__all__ = ["BaseNet", "Classifier", "ImprovedNet"]

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
"""Of CIFAR-10's training images in [0, 1], each channel's mean and standard deviation over all pixels."""

SIDE = 32
"""Of an image, pixels."""


class Classifier(ImageModel, ABC):
    """A network from 32 x 32 images to class scores; subclasses add the modules and `scores`.

    Args:
        config: As `ImageModel` takes it; `num_classes` is added here.
        num_classes: Classes, at least 2.
        image_mean: Mean per RGB channel that images in [0, 1] are normalised with.
        image_std: Standard deviation per RGB channel.

    Attributes:
        SIZE: Height and width of an image, pixels.
        num_classes: The same.

    Raises:
        ValueError: `num_classes` is below 2, or the statistics are not those of three channels.
        TypeError: An argument is of another type.
    """

    SIZE = (SIDE, SIDE)

    def __init__(
        self,
        *,
        config: Mapping[str, Any],
        num_classes: int,
        image_mean: Sequence[float],
        image_std: Sequence[float],
    ) -> None:
        if type(num_classes) is not int:
            raise TypeError(f"num_classes={num_classes!r}: wanted a whole number")
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}: wanted at least 2")
        super().__init__(config={**config, "num_classes": num_classes}, image_mean=image_mean, image_std=image_std)
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> Tensor:
        """Score a batch of images.

        Args:
            images: (B, 3, 32, 32), RGB, floating point in [0, 1].

        Returns:
            (B, num_classes) scores: the logits of the classes.

        Raises:
            ValueError: The shape is another, or batch norm is to train on a single image.
            TypeError: The images are not a floating-point tensor.
        """
        if not isinstance(images, Tensor):
            raise TypeError(f"images is a {type(images).__name__}; wanted a tensor (B, 3, {SIDE}, {SIDE})")
        if images.ndim != 4 or images.shape[1:] != (3, SIDE, SIDE) or images.shape[0] == 0:
            mend = "add the batch axis with `images[None]`" if images.ndim == 3 else "resize them"
            raise ValueError(f"images has shape {tuple(images.shape)}; wanted (B, 3, {SIDE}, {SIDE}): {mend}")
        if not images.is_floating_point():
            raise TypeError(f"images has dtype {images.dtype}; wanted floating point in [0, 1]: divide uint8 by 255")
        return self.run_network(self.scores, self.standardize(images))

    @abstractmethod
    def scores(self, images: Tensor) -> Tensor:
        """The network itself.

        Args:
            images: (B, 3, 32, 32), normalised.

        Returns:
            (B, num_classes) logits.
        """

    def _run_smallest(self) -> None:
        self.scores(self.image_mean.new_zeros(1, 3, SIDE, SIDE))


class BaseNet(Classifier):
    """The report's small network: two convolutions of 5 x 5, each with batch norm, then two linear layers.

    Printed, it is the report's, module by module. It has 86 thousand parameters for ten classes.

    Args:
        num_classes: Classes.
        image_mean: Mean per RGB channel that images in [0, 1] are normalised with; CIFAR-10's by default.
        image_std: Standard deviation per RGB channel.

    Raises:
        ValueError: `num_classes` is below 2, or the statistics are not those of three channels.
        TypeError: An argument is of another type.

    Examples:
        >>> import torch
        >>> net = BaseNet().eval()
        >>> net(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        image_mean: Sequence[float] = CIFAR10_MEAN,
        image_std: Sequence[float] = CIFAR10_STD,
    ) -> None:
        super().__init__(config={}, num_classes=num_classes, image_mean=image_mean, image_std=image_std)
        self.conv1 = nn.Sequential(nn.Conv2d(3, 6, 5), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2, 2))
        self.conv2 = nn.Sequential(nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2, 2))
        self.fc1 = nn.Sequential(nn.Linear(400, 200), nn.BatchNorm1d(200), nn.ReLU())
        self.fc2 = nn.Linear(200, num_classes)

    def scores(self, images: Tensor) -> Tensor:
        """The network itself.

        Args:
            images: (B, 3, 32, 32), normalised.

        Returns:
            (B, num_classes) logits.
        """
        logits: Tensor = self.fc2(self.fc1(self.conv2(self.conv1(images)).flatten(1)))
        return logits


class ImprovedNet(Classifier):
    """The report's improved network (its Table 1), with the options of its ablation (Table 2).

    Three blocks of two 3 x 3 convolutions, of 64, 128 and 256 channels, each halved by max pooling; then fully
    connected layers of 512, 256 and 128, and one to the classes. Table 1 gives the first of these 256 inputs,
    while a 4 x 4 map of 256 channels flattens to 4096: `head` says which.

    Args:
        batch_norm: Whether batch norm follows the convolutions and the hidden fully connected layers. Without it the
            weights start as He et al. (ICCV 2015) draw them, since from PyTorch's own start the signal fades over ten
            layers, and the network does not train.
        dropout: Chance, in [0, 1), that a value of a hidden fully connected layer is dropped in training.
        fc_layers: Fully connected layers, 1 to 4. The widths that are left out are the last ones: 3 has 512 and 256,
            2 has 512, and 1 goes straight to the classes, so that there is nothing to drop.
        head: "flatten", the default since Table 1 has no layer that would pool the map, gives the first fully connected
            layer all of it, 4096 values; "pool" its mean over the pixels, 256 values.
        num_classes: Classes.
        image_mean: Mean per RGB channel that images in [0, 1] are normalised with; CIFAR-10's by default.
        image_std: Standard deviation per RGB channel.

    Raises:
        ValueError: An argument is out of range.
        TypeError: An argument is of another type.

    Examples:
        >>> import torch
        >>> net = ImprovedNet(fc_layers=2, head="pool").eval()
        >>> net(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 10])
        >>> net.fc1[0].in_features
        256
    """

    def __init__(
        self,
        batch_norm: bool = True,
        dropout: float = 0.4,
        fc_layers: int = 4,
        head: Literal["flatten", "pool"] = "flatten",
        num_classes: int = 10,
        *,
        image_mean: Sequence[float] = CIFAR10_MEAN,
        image_std: Sequence[float] = CIFAR10_STD,
    ) -> None:
        if not isinstance(batch_norm, bool):
            raise TypeError(f"batch_norm={batch_norm!r}: wanted True or False")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float):
            raise TypeError(f"dropout={dropout!r}: wanted a chance, in [0, 1)")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: wanted a chance in [0, 1)")
        if type(fc_layers) is not int or not 1 <= fc_layers <= 4:
            raise ValueError(f"fc_layers={fc_layers!r}: wanted 1, 2, 3 or 4")
        if head not in ("flatten", "pool"):
            raise ValueError(f"head={head!r}: wanted 'flatten' or 'pool'")
        super().__init__(
            config={"batch_norm": batch_norm, "dropout": dropout, "fc_layers": fc_layers, "head": head},
            num_classes=num_classes,
            image_mean=image_mean,
            image_std=image_std,
        )
        self.conv1 = _conv_block(3, 32, 64, batch_norm=batch_norm)
        self.conv2 = _conv_block(64, 128, 128, batch_norm=batch_norm)
        self.conv3 = _conv_block(128, 256, 256, batch_norm=batch_norm)
        self.pool = nn.AdaptiveAvgPool2d(1) if head == "pool" else nn.Identity()
        width = 256 if head == "pool" else 4096
        for number, out in enumerate((512, 256, 128)[: fc_layers - 1], start=1):
            norm = [nn.BatchNorm1d(out)] if batch_norm else []
            drop = [nn.Dropout(dropout)] if dropout else []
            self.add_module(f"fc{number}", nn.Sequential(nn.Linear(width, out), *norm, nn.ReLU(), *drop))
            width = out
        self.add_module(f"fc{fc_layers}", nn.Linear(width, num_classes))
        if not batch_norm:
            self.apply(_keep_scale)

    def scores(self, images: Tensor) -> Tensor:
        """The network itself.

        Args:
            images: (B, 3, 32, 32), normalised.

        Returns:
            (B, num_classes) logits.
        """
        values: Tensor = self.pool(self.conv3(self.conv2(self.conv1(images)))).flatten(1)
        for number in range(1, self.config["fc_layers"] + 1):
            values = self.get_submodule(f"fc{number}")(values)
        return values


def _keep_scale(module: nn.Module) -> None:
    """Draw weights anew so that a layer with a rectifier before it keeps the mean square of its values."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def _conv_block(inputs: int, middle: int, outputs: int, *, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels, out in ((inputs, middle), (middle, outputs)):
        layers += [nn.Conv2d(channels, out, 3, padding=1), *([nn.BatchNorm2d(out)] if batch_norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2, 2))
