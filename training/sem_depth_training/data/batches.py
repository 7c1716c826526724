"""Batches by step: step N of a seed is always the same batch, so that a resumed run sees what it would have seen."""

import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sem_depth_node.camera import CameraModel
from sem_depth_training.data.augmentation import (
    AugmentationConfig,
    Crop,
    DepthPoints,
    Sample,
    apply_crop,
    borrow_style,
    join_side_by_side,
    mix_by_depth,
    random_crop,
    turn,
    vary_appearance,
    vary_weather,
)
from sem_depth_training.data.frames import DataError, Frame
from sem_depth_training.data.sky import below_measured, sky_mask

_DECODED_AT_ONCE = 64  # frames


@dataclass(frozen=True)
class LoadedFrame:
    """A frame decoded at its own size; its depth in the form that takes less memory.

    Rendered depth is metres x 256, uint16 [H, W]; what a lidar or stereo matching left is points. `shift` is metres to
    the `partner` camera, as `Frame` has it.
    """

    image: NDArray[np.uint8]
    depth: DepthPoints | NDArray[np.uint16]
    sky: NDArray[np.bool_]
    camera: CameraModel
    sparse: bool
    partner: NDArray[np.uint8] | None
    shift: float

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        depth = self.depth
        arrays = [self.image, self.sky, self.partner]
        arrays += [depth.u, depth.v, depth.z] if isinstance(depth, DepthPoints) else [depth]  # type: ignore[list-item]
        return sum(array.nbytes for array in arrays if array is not None)


class WeightedFrames(NamedTuple):
    """Frames of one source, its share of a mixture, and the probability that a frame of it is mixed by depth with
    another (`mix_by_depth`), which is for frames of one rig: their roads then coincide."""

    frames: Sequence[Frame]
    weight: float
    mix: float = 0.0


class Mixture:
    """Frames of weighted sources.

    Within a source a sequence of n frames is drawn in proportion to sqrt(n): a drive's neighbouring frames say nearly
    the same, and single frames of other places are worth more than their number. Depth beyond `max_depth` metres is
    left out. Frames without a sky mask are taken to have sparse depth, and their sky is guessed.

    Args:
        sources: what there is to draw from.
        max_depth: metres.
        memory: bytes of decoded frames to keep; the others are decoded whenever they are drawn.
        partners: decode the other image of stereo pairs too.

    Raises:
        DataError: a frame that is kept cannot be decoded.
    """

    def __init__(
        self,
        sources: Sequence[WeightedFrames],
        max_depth: float,
        memory: float = 8 * 2**30,
        partners: bool = False,
    ) -> None:
        self.max_depth, self.partners = max_depth, partners
        self.frames: list[Frame] = []
        self._sources = list(sources)
        self._ends = np.cumsum([len(source.frames) for source in sources])
        self._shares = []
        for source in sources:
            lengths = Counter(frame.sequence for frame in source.frames)
            shares = np.array([lengths[frame.sequence] ** -0.5 for frame in source.frames])
            self.frames.extend(source.frames)
            self._shares.append(shares / shares.sum())
        weights = np.array([source.weight for source in sources])
        self.probabilities = np.concatenate(
            [shares * weight for shares, weight in zip(self._shares, weights / weights.sum(), strict=True)]
        )
        self._kept: list[LoadedFrame] = []
        with ThreadPoolExecutor(2) as pool:
            for start in range(0, len(self.frames), _DECODED_AT_ONCE):
                for loaded in pool.map(self._decode, self.frames[start : start + _DECODED_AT_ONCE]):
                    memory -= loaded.bytes
                    if memory >= 0:
                        self._kept.append(loaded)
                if memory < 0:
                    break

    def load(self, index: int) -> LoadedFrame:
        """Frame number `index`. Raises DataError where it cannot be decoded."""
        return self._kept[index] if index < len(self._kept) else self._decode(self.frames[index])

    def companion(self, rng: np.random.Generator, index: int) -> LoadedFrame | None:
        """A frame to mix number `index` with by depth, of the same source; None where it is not to be mixed."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        source = self._sources[number]
        if not source.mix or rng.random() >= source.mix:
            return None
        start = int(self._ends[number]) - len(source.frames)
        return self.load(start + int(rng.choice(len(source.frames), p=self._shares[number])))

    def _decode(self, frame: Frame) -> LoadedFrame:
        depth = frame.read_depth()
        depth[depth > self.max_depth] = 0
        image, points = frame.read_image(), DepthPoints.from_image(depth)
        sparse = frame.sky is None
        sky = sky_mask(image, below_measured(points.u, points.v, *depth.shape)) if sparse else frame.read_sky()
        dense = len(points.z) > 0.5 * (~sky).sum() and not sparse
        kept = (depth * 256).round().astype(np.uint16) if dense else points
        partner = frame.read_partner() if self.partners and frame.partner is not None else None
        return LoadedFrame(image, kept, sky, frame.camera, sparse, partner, frame.shift)


@dataclass
class Batch:
    """image uint8 [B, H, W, 3]; depth float32 [B, H, W] metres, 0 unknown; sky bool [B, H, W];
    focal float32 [B], pixels; sparse bool [B]: depth comes from single scans that never see the top of the image.

    Where the mixture has stereo partners, `pair` uint8 [B, 2, H, W, 3] is the image before its appearance was varied
    and the partner's, and `pair_shift` float32 [B] what to divide by depth for the pixels from a column of the image to
    the partner's, 0 for frames without one; otherwise `pair` is empty.
    """

    image: Tensor
    depth: Tensor
    sky: Tensor
    focal: Tensor
    sparse: Tensor
    pair: Tensor
    pair_shift: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return Batch(**{name: tensor.to(device, non_blocking=True) for name, tensor in self.state().items()})

    def state(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class BatchesByStep(Dataset[Batch | DataError]):
    """`self[step]` is the batch of that step, or what is wrong with a frame of it; sizes (height, width) take turns."""

    def __init__(
        self,
        mixture: Mixture,
        sizes: Sequence[tuple[int, int]],
        batch_size: int,
        augmentation: AugmentationConfig,
        seed: int,
        process: int = 0,
    ) -> None:
        self.mixture, self.sizes, self.batch_size = mixture, sizes, batch_size
        self.augmentation, self.seed, self.process = augmentation, seed, process

    def __getitem__(self, step: int) -> Batch | DataError:
        try:
            return self._batch(step)
        except DataError as error:
            return error  # raised where it is awaited: on its way out of a worker it would become a traceback in words

    def _batch(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, self.process, step))
        height, width = self.sizes[step % len(self.sizes)]
        chosen = rng.choice(len(self.mixture.frames), self.batch_size, p=self.mixture.probabilities)
        views, sparse = [], []
        for index in chosen:
            frame = self.mixture.load(int(index))
            companion = self.mixture.companion(rng, int(index))
            if companion is not None and companion.sparse != frame.sparse:  # the losses of a whole image depend on it
                companion = None
            view = self._view(rng, frame, height, width, companion)
            if rng.random() < self.augmentation.join:
                other = self._draw(rng)
                if other.sparse == frame.sparse:
                    beside = self._view(rng, other, height, width)
                    # Half of the picture is not in the partner, so the pair says nothing of it.
                    view = replace(view, sample=join_side_by_side(rng, view.sample, beside.sample), shift=0.0)
            views.append(view)
            sparse.append(frame.sparse)
        samples = [view.sample for view in views]
        partners = self.mixture.partners
        return Batch(
            image=torch.from_numpy(np.stack([sample.image for sample in samples])),
            depth=torch.from_numpy(np.stack([sample.depth for sample in samples])),
            sky=torch.from_numpy(np.stack([sample.sky for sample in samples])),
            focal=torch.tensor([sample.camera.focal_length for sample in samples]),
            sparse=torch.tensor(sparse),
            pair=torch.from_numpy(np.stack([view.pair for view in views])) if partners else torch.empty(0),
            pair_shift=torch.tensor([view.shift for view in views], dtype=torch.float32),
        )

    def _draw(self, rng: np.random.Generator) -> LoadedFrame:
        return self.mixture.load(int(rng.choice(len(self.mixture.frames), p=self.mixture.probabilities)))

    def _view(
        self, rng: np.random.Generator, frame: LoadedFrame, height: int, width: int, other: LoadedFrame | None = None
    ) -> "_View":
        crop = random_crop(rng, frame.camera, height, width, self.augmentation)
        angles = None
        if self.augmentation.turn and frame.partner is None:  # a pair that is turned has its rows no longer in line
            angles = np.radians(rng.uniform(-self.augmentation.turn, self.augmentation.turn, 2))
        plain = _window(frame, angles, crop, height, width)
        if other is not None:
            window = crop.on(frame.camera, other.camera)
            plain = mix_by_depth(plain, _window(other, angles, window, height, width))
        image = vary_weather(rng, plain, not frame.sparse, self.augmentation)
        if rng.random() < self.augmentation.style:
            image = borrow_style(rng, image, self._draw(rng).image)
        sample = replace(plain, image=vary_appearance(rng, image, self.augmentation))
        if frame.partner is None or other is not None:  # the partner does not show what was mixed in
            return _View(sample, np.stack([plain.image, plain.image]), 0.0)
        seen = apply_crop(frame.partner, _NOTHING, None, frame.camera, crop, height, width)
        # What is seen from further right is further left; mirrored, further right.
        shift = plain.camera.fx * (frame.shift if crop.flip else -frame.shift)
        return _View(sample, np.stack([plain.image, seen.image]), shift)


def _window(frame: LoadedFrame, angles: NDArray[np.float64] | None, crop: Crop, height: int, width: int) -> Sample:
    """What a frame shows in a window after its camera is turned by (roll, pitch) in radians."""
    measured = (frame.image, frame.depth, frame.sky)
    if angles is not None:
        measured = turn(*measured, frame.camera, *angles)
    return apply_crop(*measured, frame.camera, crop, height, width)


_NOTHING = DepthPoints.from_image(np.zeros((1, 1), np.float32))


@dataclass(frozen=True)
class _View:
    """A sample, and what `Batch` has of its stereo pair."""

    sample: Sample
    pair: NDArray[np.uint8]
    shift: float


class _Steps(Sampler[int]):
    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return max(0, self.stop - self.start)


def _outlive_signals(worker: int) -> None:
    """Ctrl-C and torchrun signal the whole process group; the run ends after its step, and needs the workers for it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def batch_loader(batches: BatchesByStep, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Batches of the steps start..stop-1, made ahead by `workers` processes (0: when asked for).

    Raises DataError when a batch is due of which a frame cannot be decoded.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=_Steps(start, stop),
        num_workers=workers,
        worker_init_fn=_outlive_signals,
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch
