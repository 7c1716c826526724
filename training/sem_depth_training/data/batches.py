"""Batches by step: step N of a seed is always the same batch, so that a resumed run sees what it would have seen."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sem_depth_node.camera import CameraModel
from sem_depth_training.data.augmentation import (
    AugmentationConfig,
    DepthPoints,
    Sample,
    apply_crop,
    join_side_by_side,
    random_crop,
    vary_appearance,
    vary_weather,
)
from sem_depth_training.data.frames import Frame
from sem_depth_training.data.sky import guess_sky


@dataclass(frozen=True)
class LoadedFrame:
    """A frame decoded once and kept in memory at its own size; its depth in the form that takes less of it.

    Rendered depth is metres x 256, uint16 [H, W]; what a lidar or stereo matching left is points.
    """

    image: NDArray[np.uint8]
    depth: DepthPoints | NDArray[np.uint16]
    sky: NDArray[np.bool_]
    camera: CameraModel
    sparse: bool


@dataclass
class Mixture:
    """Loaded frames and the probability of each."""

    frames: list[LoadedFrame]
    probabilities: NDArray[np.float64]


def load_mixture(sources: Sequence[tuple[Sequence[Frame], float]], max_depth: float) -> Mixture:
    """Decode all frames of the weighted sources.

    Within a source a sequence of n frames is drawn in proportion to sqrt(n): a drive's neighbouring frames say nearly
    the same, and single frames of other places are worth more than their number. Depth beyond `max_depth` metres is
    left out. Frames without a sky mask are taken to have sparse depth, and their sky is guessed.
    """

    def load(frame: Frame) -> LoadedFrame:
        depth = frame.read_depth()
        depth[depth > max_depth] = 0
        image, points = frame.read_image(), DepthPoints.from_image(depth)
        sky = guess_sky(image, points) if frame.sky is None else frame.read_sky()
        dense = len(points.z) > 0.5 * (~sky).sum() and frame.sky is not None
        kept = (depth * 256).round().astype(np.uint16) if dense else points
        return LoadedFrame(image, kept, sky, frame.camera, sparse=frame.sky is None)

    frames: list[LoadedFrame] = []
    probabilities: list[float] = []
    total = sum(weight for _, weight in sources)
    with ThreadPoolExecutor(2) as pool:
        for source, weight in sources:
            lengths = Counter(frame.sequence for frame in source)
            shares = np.array([lengths[frame.sequence] ** -0.5 for frame in source])
            frames.extend(pool.map(load, source))
            probabilities.extend(shares / shares.sum() * weight / total)
    return Mixture(frames, np.asarray(probabilities))


@dataclass
class Batch:
    """image uint8 [B, H, W, 3]; depth float32 [B, H, W] metres, 0 unknown; sky bool [B, H, W];
    focal float32 [B], pixels; sparse bool [B]: depth comes from single scans that never see the top of the image."""

    image: Tensor
    depth: Tensor
    sky: Tensor
    focal: Tensor
    sparse: Tensor


class BatchesByStep(Dataset[Batch]):
    """`self[step]` is the batch of that step; sizes (height, width) take turns."""

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

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, self.process, step))
        height, width = self.sizes[step % len(self.sizes)]
        chosen = rng.choice(len(self.mixture.frames), self.batch_size, p=self.mixture.probabilities)
        samples, sparse = [], []
        for index in chosen:
            frame = self.mixture.frames[index]
            sample = self._view(rng, frame, height, width)
            if rng.random() < self.augmentation.join:
                other = self.mixture.frames[rng.choice(len(self.mixture.frames), p=self.mixture.probabilities)]
                if other.sparse == frame.sparse:  # the losses of a whole image depend on it
                    sample = join_side_by_side(rng, sample, self._view(rng, other, height, width))
            samples.append(sample)
            sparse.append(frame.sparse)
        return Batch(
            image=torch.from_numpy(np.stack([sample.image for sample in samples])),
            depth=torch.from_numpy(np.stack([sample.depth for sample in samples])),
            sky=torch.from_numpy(np.stack([sample.sky for sample in samples])),
            focal=torch.tensor([sample.camera.focal_length for sample in samples]),
            sparse=torch.tensor(sparse),
        )

    def _view(self, rng: np.random.Generator, frame: LoadedFrame, height: int, width: int) -> Sample:
        crop = random_crop(rng, frame.camera, height, width, self.augmentation)
        sample = apply_crop(frame.image, frame.depth, frame.sky, frame.camera, crop, height, width)
        image = vary_weather(rng, sample, not frame.sparse, self.augmentation)
        return replace(sample, image=vary_appearance(rng, image, self.augmentation))


class _Steps(Sampler[int]):
    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return max(0, self.stop - self.start)


def batch_loader(batches: BatchesByStep, start: int, stop: int, workers: int) -> DataLoader[Batch]:
    """Batches of the steps start..stop-1, made ahead by `workers` processes (0: when asked for)."""
    # A generator of its own: otherwise starting to load draws from the random state that a resumed run restored.
    own = torch.Generator()
    return DataLoader(batches, batch_size=None, sampler=_Steps(start, stop), num_workers=workers, generator=own)
