"""The field's figures for surface normals, in a state that stays small however many pixels it has seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import rank_zero_warn

from normalkit.geometry import MIN_LABEL_LENGTH
from normalkit.losses import check_fields

__all__ = ["AngularMetrics", "SurfaceNormalMetrics", "surface_normal_metrics"]

Reduction = Literal["pooled", "per_image"]
State = dict[str, Tensor]

THRESHOLDS = (5.0, 7.5, 11.25, 22.5, 30.0)
"""Degrees; the field's five."""
BINS_PER_DEGREE = 512
"""A power of two: `error * 512` is then exact, so that no error falls into a neighbour's bin."""
BINS = 180 * BINS_PER_DEGREE + 1
"""One more for 180 degrees itself."""
BLOCK_PIXELS = {"cpu": 2**19}
"""Pixels worked on at once: enough to outweigh a call, few enough for 30 MB of scratch."""
BLOCK_PIXELS_OTHERWISE = 2**20
GRAIN = 2**15
"""Elements that torch gives to one thread of a processor before it takes a second."""
VECTOR = 64
"""A multiple of what one step of torch's vectorised loops takes."""
SAFE_SQUARES = (1e-6, 1e6)
"""Squared lengths of vectors whose products float32 holds with all their digits, without scaling first."""


class SurfaceNormalMetrics(Metric):
    """Mean, median and RMSE of the angular error, and the share of pixels below thresholds.

    With e the angle between prediction and label, over the valid pixels that have a prediction:
    mean e, median e, sqrt(mean e^2), all in degrees, and for each threshold t the per cent of pixels
    with e < t (strictly). A pixel is valid when the mask says so, its label is finite and longer than
    0.5. A prediction that is zero or not finite on a valid pixel has no direction: it is left out of
    every figure, counted in `"invalid"`, and `compute` warns of it.

    `"pooled"` treats all pixels of the data set alike, as DSINE and most of the field do: sums, counts
    and a histogram in steps of 1/512 degree are all that is kept (0.7 MB), and sums of float64 and
    integers are what several processes add up. Everything is then exact but the median, which is
    at most 1/512 degree (0.002) too small and never too large. `"per_image"` averages the figures of the
    images, each with its exact median, as Marigold does; an image in which nothing can be scored is
    skipped.

    Args:
        thresholds: Degrees, in (0, 180].
        reduction: `"pooled"` or `"per_image"`.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: A threshold is out of range or given twice, or the reduction is unknown.
        TypeError: `thresholds` is not a sequence of numbers.

    Examples:
        >>> import torch
        >>> target = torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
        >>> pred = target.clone()
        >>> pred[:, :, 0, 0] = torch.tensor([0.0, -1.0, 0.0])
        >>> metric = SurfaceNormalMetrics(thresholds=(11.25, 90))
        >>> metric.update(pred, target)
        >>> {name: round(value.item(), 2) for name, value in metric.compute().items()}
        {'mean': 22.5, 'median': 0.0, 'rmse': 45.0, '11.25': 75.0, '90': 75.0, 'invalid': 0}
    """

    is_differentiable = False
    full_state_update = False

    def __init__(
        self, thresholds: Sequence[float] = THRESHOLDS, reduction: Reduction = "pooled", **kwargs: object
    ) -> None:
        super().__init__(**kwargs)
        self.thresholds = _check_thresholds(thresholds)
        self.reduction = _check_reduction(reduction)
        for name, zero in _EMPTY[reduction](self.thresholds).items():
            self.add_state(name, zero, dist_reduce_fx="sum")

    def update(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            pred: (B, 3, H, W), floating point; any length. Half precision is computed in float32.
            target: Labels, the same shape, in the same axes.
            mask: (B, H, W) bool, True where the label counts; None for all.

        Raises:
            ValueError: Shapes or devices differ or are not as above.
            TypeError: An input is not floating point, or the mask is not boolean.
        """
        for name, part in _UPDATE[self.reduction](pred, target, mask, self.thresholds).items():
            state = getattr(self, name)
            setattr(self, name, state + part.to(state.device))

    def compute(self) -> dict[str, Tensor]:
        """The figures of all batches so far, over all processes.

        Returns:
            `"mean"`, `"median"`, `"rmse"` in degrees and one entry a threshold (`"5"`, `"7.5"`, ...) in
            per cent, float64; `"invalid"`, the number of valid pixels without a usable prediction,
            int64. All 0-dimensional.

        Raises:
            ValueError: No pixel has been scored.
        """
        state = {name: getattr(self, name) for name in self._defaults}
        return _COMPUTE[self.reduction](state, self.thresholds)

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Add a batch and return its own figures; arguments as in `update`, figures as in `compute`.

        Raises:
            ValueError: As in `update`, or nothing in the batch can be scored; it is then not added.
            TypeError: As in `update`.
        """
        # The base class empties the state for the batch, and an error would leave it so.
        before = dict(self.__dict__)
        try:
            figures: dict[str, Tensor] = super().forward(pred, target, mask)
            return figures
        except (TypeError, ValueError):
            self.__dict__.update(before)
            raise

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ()) -> nn.Module:
        """Move the states, and leave their dtypes: a sum in float16 would end at 65504."""
        self._computed = self._forward_cache = None
        super()._apply(fn, exclude_state=[*self._defaults, *exclude_state])
        device = _with_float64(self.device)
        for name, default in self._defaults.items():
            assert isinstance(default, Tensor)
            self._defaults[name] = default.to(device)
            setattr(self, name, getattr(self, name).to(device))
        return self


AngularMetrics = SurfaceNormalMetrics


def surface_normal_metrics(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    reduction: Reduction = "pooled",
) -> dict[str, Tensor]:
    """The figures of one batch: what `SurfaceNormalMetrics` computes, without a state.

    Args:
        pred: (B, 3, H, W), floating point; any length.
        target: Labels, the same shape, in the same axes.
        mask: (B, H, W) bool, True where the label counts; None for all.
        thresholds: Degrees, in (0, 180].
        reduction: `"pooled"` over all pixels, or `"per_image"`, the mean of each image's figures.

    Returns:
        `"mean"`, `"median"`, `"rmse"` in degrees, an entry for each threshold in per cent, and
        `"invalid"`, a count of pixels; 0-dimensional.

    Raises:
        ValueError: An argument is not as above, or no pixel can be scored.
        TypeError: A dtype is not as above.

    Examples:
        >>> import torch
        >>> target = torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1)
        >>> pred = torch.tensor([0.0, -1.0, -1.0]).view(1, 3, 1, 1)
        >>> figures = surface_normal_metrics(pred, target, thresholds=(30, 45.1))
        >>> [round(figures[name].item(), 3) for name in ("median", "30", "45.1")]
        [45.0, 0.0, 100.0]
    """
    thresholds = _check_thresholds(thresholds)
    state = _UPDATE[_check_reduction(reduction)](pred, target, mask, thresholds)
    return _COMPUTE[reduction](state, thresholds)


def _pooled_empty(thresholds: tuple[float, ...]) -> State:
    state = {
        "histogram": torch.zeros(BINS, dtype=torch.int64),
        "error_sum": torch.zeros((), dtype=torch.float64),
        "square_sum": torch.zeros((), dtype=torch.float64),
        "invalid": torch.zeros((), dtype=torch.int64),
    }
    return state | {_below(t): torch.zeros((), dtype=torch.int64) for t in thresholds if not _is_bin_edge(t)}


@torch.no_grad()
def _pooled_update(pred: Tensor, target: Tensor, mask: Tensor | None, thresholds: tuple[float, ...]) -> State:
    pred, target, mask = _check_batch(pred, target, mask)
    state = {name: zero.to(pred.device) for name, zero in _pooled_empty(thresholds).items()}
    for block in _blocks(pred, target, mask):
        errors, scored, invalid = _block_errors(*block)
        counts = torch.bincount((errors * BINS_PER_DEGREE).to(torch.int32), minlength=BINS)
        # The errors that do not count are 0, so only the first bin and no sum has to be told.
        counts[0] -= errors.numel() - torch.count_nonzero(scored)
        state["histogram"] += counts
        state["error_sum"] += errors.sum()
        state["square_sum"] += torch.dot(errors, errors)
        state["invalid"] += invalid
        for threshold in thresholds:
            if not _is_bin_edge(threshold):
                state[_below(threshold)] += torch.count_nonzero((errors < threshold) & scored)
    return state


def _pooled_compute(state: State, thresholds: tuple[float, ...]) -> dict[str, Tensor]:
    cumulative = state["histogram"].cumsum(0)
    total = cumulative[-1]
    _check_scored(int(total), state["invalid"])
    middle = torch.stack([(total - 1) // 2, total // 2])
    figures = {
        "mean": state["error_sum"] / total,
        "median": torch.searchsorted(cumulative, middle, right=True).double().mean() / BINS_PER_DEGREE,
        "rmse": (state["square_sum"] / total).sqrt(),
    }
    for threshold in thresholds:
        edge = int(threshold * BINS_PER_DEGREE)
        below = cumulative[edge - 1] if _is_bin_edge(threshold) else state[_below(threshold)]
        figures[f"{threshold:g}"] = 100 * below.double() / total
    return figures | {"invalid": state["invalid"]}


def _per_image_empty(thresholds: tuple[float, ...]) -> State:
    names = ["mean_sum", "median_sum", "rmse_sum", *map(_below, thresholds)]
    state = {name: torch.zeros((), dtype=torch.float64) for name in names}
    return state | {name: torch.zeros((), dtype=torch.int64) for name in ("images", "invalid")}


@torch.no_grad()
def _per_image_update(pred: Tensor, target: Tensor, mask: Tensor | None, thresholds: tuple[float, ...]) -> State:
    pred, target, mask = _check_batch(pred, target, mask)
    state = {name: zero.to(pred.device) for name, zero in _per_image_empty(thresholds).items()}
    for image in range(pred.shape[0]):
        found = []
        one = slice(image, image + 1)
        for block in _blocks(pred[one], target[one], None if mask is None else mask[one]):
            errors, scored, invalid = _block_errors(*block)
            found.append(errors[scored])
            state["invalid"] += invalid
        errors = torch.cat(found)
        if errors.numel() == 0:
            continue
        state["images"] += 1
        state["mean_sum"] += errors.mean()
        # torch's median is the lower of two middle values; that of the negatives is the upper.
        state["median_sum"] += (errors.median() - (-errors).median()) / 2
        state["rmse_sum"] += errors.square().mean().sqrt()
        for threshold in thresholds:
            state[_below(threshold)] += 100 * (errors < threshold).double().mean()
    return state


def _per_image_compute(state: State, thresholds: tuple[float, ...]) -> dict[str, Tensor]:
    images = state["images"]
    _check_scored(int(images), state["invalid"])
    figures = {name: state[f"{name}_sum"] / images for name in ("mean", "median", "rmse")}
    figures |= {f"{threshold:g}": state[_below(threshold)] / images for threshold in thresholds}
    return figures | {"invalid": state["invalid"]}


_EMPTY = {"pooled": _pooled_empty, "per_image": _per_image_empty}
_UPDATE = {"pooled": _pooled_update, "per_image": _per_image_update}
_COMPUTE = {"pooled": _pooled_compute, "per_image": _per_image_compute}


def _blocks(pred: Tensor, target: Tensor, mask: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Cut a batch into pieces (3, n), (3, n), (n,) that a cache holds; views, where an image is larger than a piece."""
    size = BLOCK_PIXELS.get(pred.device.type, BLOCK_PIXELS_OTHERWISE)
    images = max(1, size // pred[0, 0].numel()) if len(pred) else 1
    for start in range(0, len(pred), images):
        group = slice(start, start + images)
        fields = [field[group].movedim(1, 0).flatten(1) for field in (pred, target)]
        flat_mask = None if mask is None else mask[group].flatten()
        for first in range(0, fields[0].shape[1], size):
            cut = slice(first, first + size)
            yield fields[0][:, cut], fields[1][:, cut], None if flat_mask is None else flat_mask[cut]


def _block_errors(pred: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Angular errors of (3, n) in degrees, float64, 0 where not scored; which are scored; how many are invalid.

    The angle of `geometry.angular_error`, without scaling vectors of ordinary length; validity as in
    `geometry.valid_normals`.
    """
    dtype = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
    pred, target = pred.to(dtype), target.to(dtype)
    pred_square, target_square = _dot(pred, pred), _dot(target, target)
    scored = target_square > MIN_LABEL_LENGTH**2
    scored = scored if mask is None else scored & mask
    invalid = torch.zeros((), dtype=torch.int64, device=pred.device)
    low, high = SAFE_SQUARES
    # A NaN passes through the extremes and fails both comparisons.
    safe = (pred_square.amin() >= low) & (torch.maximum(pred_square.amax(), target_square.amax()) <= high)
    if not bool(safe):
        (pred, has_direction), (target, is_label) = _scale(pred), _scale(target)
        valid = scored & is_label
        scored = valid & has_direction
        invalid = torch.count_nonzero(valid) - torch.count_nonzero(scored)
    # In float64: in float32 the arc tangent of 1 is not 45 degrees, and the factor adds 1e-6 degrees at 90.
    angle = _arctangent(_cross_square(pred, target).sqrt_().double(), _dot(pred, target).double())
    return torch.where(scored, angle.mul_(180 / math.pi), 0), scored, invalid


def _scale(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Bring the largest component of each of (3, n) into [1, 2); and which have a direction: finite and not zero.

    By a power of two, so that an angle keeps its last bit: scaling must not show in the counts.
    """
    x, y, z = vectors.abs().unbind(0)
    largest = torch.maximum(torch.maximum(x, y), z)
    usable = (largest > 0) & (largest < math.inf)
    largest = torch.where(usable, largest, 1)
    return vectors / (largest / (2 * torch.frexp(largest).mantissa)), usable


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Scalar product of (3, n), by components: torch's own reductions over a strided axis are slow."""
    return (a[0] * b[0]).addcmul_(a[1], b[1]).addcmul_(a[2], b[2])


def _cross_square(a: Tensor, b: Tensor) -> Tensor:
    """Squared length of the vector product of (3, n), by components."""
    (ax, ay, az), (bx, by, bz) = a.unbind(0), b.unbind(0)
    x = (ay * bz).addcmul_(az, by, value=-1)
    y = (az * bx).addcmul_(ax, bz, value=-1)
    z = (ax * by).addcmul_(ay, bx, value=-1)
    return x.mul_(x).addcmul_(y, y).addcmul_(z, z)


def _arctangent(y: Tensor, x: Tensor) -> Tensor:
    """`atan2`, the same to the last bit wherever in a batch a pixel lies.

    torch hands what remains of a thread's share after whole vectors to another implementation, which
    differs in the last digit; so that counts do not depend on how a data set is split, nothing may remain.
    """
    number = y.numel()
    shares = min(torch.get_num_threads(), math.ceil(number / GRAIN))
    missing = -number % (VECTOR * shares)
    if not missing:
        return torch.atan2(y, x)
    return torch.atan2(functional.pad(y, (0, missing)), functional.pad(x, (0, missing)))[:number]


def _check_batch(pred: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The inputs, where float64 exists."""
    check_fields(pred, target, mask)
    device = _with_float64(pred.device)
    return pred.to(device), target.to(device), None if mask is None else mask.to(device)


def _check_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    if isinstance(thresholds, str) or not isinstance(thresholds, Sequence):
        raise TypeError(f"thresholds={thresholds!r}: wanted a sequence of degrees such as (11.25, 22.5, 30)")
    for threshold in thresholds:
        if not isinstance(threshold, (int, float)) or not 0 < threshold <= 180:
            raise ValueError(f"thresholds={tuple(thresholds)}: {threshold!r} is not a number of degrees in (0, 180]")
    names = [f"{threshold:g}" for threshold in thresholds]
    if len(set(names)) < len(names):
        raise ValueError(f"thresholds={tuple(thresholds)}: two of them would both be reported as one of {names}")
    return tuple(float(threshold) for threshold in thresholds)


def _check_reduction(reduction: Reduction) -> Reduction:
    if reduction not in _UPDATE:
        raise ValueError(f"reduction={reduction!r}: wanted one of {', '.join(map(repr, _UPDATE))}")
    return reduction


def _check_scored(scored: int, invalid: Tensor) -> None:
    """Warn of dead predictions; refuse to report on nothing."""
    dead = int(invalid)
    if not scored and dead:
        raise ValueError(
            f"every prediction on the {dead} valid pixels is zero or not finite: the model has diverged or is dead"
        )
    if not scored:
        raise ValueError(
            "no valid pixel has been seen; call update first, and check the mask and that the labels "
            f"are finite and longer than {MIN_LABEL_LENGTH}"
        )
    if dead:
        rank_zero_warn(
            f"{dead} valid pixels have a prediction that is zero or not finite; they are left out of every figure",
            UserWarning,
        )


def _is_bin_edge(threshold: float) -> bool:
    """Whether the histogram alone tells exactly how many errors are below."""
    return (threshold * BINS_PER_DEGREE).is_integer()


def _below(threshold: float) -> str:
    """The state of one threshold. In its name, so that a MetricCollection never merges two that differ."""
    return f"below_{threshold:g}".replace(".", "_")


def _with_float64(device: torch.device) -> torch.device:
    """The device, or the CPU for one that has no float64."""
    return torch.device("cpu") if device.type == "mps" else device
