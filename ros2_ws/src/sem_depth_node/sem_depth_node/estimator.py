"""From an image and its camera to metric depth and confidence: the walk of one frame, without ROS."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sem_depth_node.bundle import Manifest, ModelBundle
from sem_depth_node.camera import CameraModel
from sem_depth_node.engines.deferred import DeferredEngine
from sem_depth_node.engines.engine import DepthEngine, EngineOutput
from sem_depth_node.framing import Fit, Framing
from sem_depth_node.validity import apply_range, confidence, mark_flying_pixels, mark_impossible


@dataclass(frozen=True)
class EstimatorSettings:
    """How an estimate is framed and what of it is declared invalid.

    Attributes:
        fit: "crop" (at the horizon) or "letterbox", for images of another aspect than the engine's input.
        native_size: leave depth at the engine's resolution instead of the image's; its camera says what it covers.
        min_depth, max_depth: metres; None takes the bundle's range. Nearer is NaN, farther is +Inf.
        flying_pixel_threshold: relative change of depth per engine pixel above which a pixel is NaN; 0 keeps all.
        min_confidence: pixels below it are NaN; 0 keeps all.
    """

    fit: Fit = "crop"
    native_size: bool = False
    min_depth: float | None = None
    max_depth: float | None = None
    flying_pixel_threshold: float = 0.2
    min_confidence: float = 0.0


@dataclass(frozen=True)
class DepthEstimate:
    """Metric depth of one image. The arrays are used again by the next estimate: copy what you keep.

    Attributes:
        depth: float32 (H, W), metres along Z (REP 118). NaN is not known, +Inf is beyond range (REP 117).
        confidence: float32 (H, W) in 0..1, the probability that depth is right within 10 %; 0 where depth is NaN.
        camera: the camera of these arrays.
        engine_seconds: time spent inside the engine.
    """

    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]
    camera: CameraModel
    engine_seconds: float


@dataclass(frozen=True)
class Inference:
    """What the network says of one image, before it is metres.

    Attributes:
        path: that the image went.
        output: of the engine.
        engine_seconds: time spent inside the engine.
    """

    path: FramePath
    output: EngineOutput
    engine_seconds: float

    def to_estimate(self, scale: float = 1.0) -> DepthEstimate:
        """The second half of `DepthEstimator.estimate`."""
        return self.path.to_estimate(self.output, self.engine_seconds, scale)


class DepthEstimator:
    """Estimates metric depth with the engines of one bundle.

    Args:
        bundle: the engines' bundle.
        engines: one for each input size to choose from; an image goes to the one with the nearest aspect.
        settings: may be replaced between estimates.
    """

    def __init__(
        self, bundle: ModelBundle, engines: Sequence[DepthEngine], settings: EstimatorSettings | None = None
    ) -> None:
        if not engines:
            raise ValueError(f"no engine given for bundle {bundle.folder}, expected at least one")
        self.bundle = bundle
        self.engines = tuple(engines)
        self.settings = settings or EstimatorSettings()
        self._path: FramePath | None = None

    def estimate(self, image: NDArray[np.uint8], camera: CameraModel, scale: float = 1.0) -> DepthEstimate:
        """Depth of `image`, uint8 (H, W, 3) RGB, rectified, seen by `camera`.

        Args:
            image: as said.
            camera: of the image.
            scale: multiplied into depth before its range is judged.

        Raises:
            ValueError: the image is not uint8 (H, W, 3) of the camera's size.
            EngineError: the engine failed.
        """
        return self.infer(image, camera).to_estimate(scale)

    def infer(self, image: NDArray[np.uint8], camera: CameraModel) -> Inference:
        """What the network says of `image`; the first half of `estimate`, with the same arguments and errors.

        The rest may run in another thread, but not beside another call of this estimator.
        """
        if image.dtype != np.uint8 or image.shape != (camera.height, camera.width, 3):
            raise ValueError(
                f"image is {image.dtype} {image.shape}, expected uint8 {(camera.height, camera.width, 3)} "
                "as its camera says"
            )
        path = self.path_for(camera)
        engine_input = path.framing.to_engine(image)
        start = time.perf_counter()
        output = path.engine.infer(engine_input)
        return Inference(path, output, time.perf_counter() - start)

    def warm_up(self) -> None:
        """Run every engine that is open once on a black image: the first real frame then does not pay for first use."""
        for engine in self.engines:
            if isinstance(engine, DeferredEngine):
                continue
            engine.infer(np.zeros((engine.height, engine.width, 3), np.uint8))

    def close(self) -> None:
        """Close every engine."""
        for engine in self.engines:
            engine.close()

    def path_for(self, camera: CameraModel) -> FramePath:
        """The framing and buffers for images of `camera`; made anew only when the camera or the settings change."""
        if self._path is None or (self._path.camera, self._path.settings) != (camera, self.settings):
            engine = min(self.engines, key=lambda e: _aspect_difference(e, camera))
            self._path = FramePath(engine, self.bundle.manifest, camera, self.settings)
        return self._path


class FramePath:
    """What one camera's images go through on both sides of the engine, with all that stays the same between them.

    Args:
        engine: whose input the images are framed for.
        manifest: of the engine's bundle.
        camera: of the images.
        settings: of the estimator.
    """

    def __init__(
        self, engine: DepthEngine, manifest: Manifest, camera: CameraModel, settings: EstimatorSettings
    ) -> None:
        self.engine, self.camera, self.settings = engine, camera, settings
        self.framing = Framing(camera, engine.height, engine.width, settings.fit)
        low, high = manifest.depth_range
        self._min_depth = low if settings.min_depth is None else settings.min_depth
        self._max_depth = high if settings.max_depth is None else settings.max_depth
        self._metres_per_canonical = np.float32(self.framing.camera.focal_length / manifest.canonical_focal_length)
        self._depth = np.empty((engine.height, engine.width), np.float32)
        self._confidence = np.empty_like(self._depth)
        self._bars: NDArray[np.bool_] | None = None  # of a letterbox: no part of the image
        if self._depth[self.framing.target.slices].shape != self._depth.shape:
            self._bars = np.ones(self._depth.shape, bool)
            self._bars[self.framing.target.slices] = False
        if settings.native_size:
            self._camera_out = self.framing.camera
            self._depth_out, self._confidence_out = self._depth, self._confidence
        else:
            self._camera_out = camera
            self._depth_out = np.empty((camera.height, camera.width), np.float32)
            self._confidence_out = np.empty_like(self._depth_out)

    def to_estimate(self, output: EngineOutput, engine_seconds: float, scale: float = 1.0) -> DepthEstimate:
        """Metric depth, times `scale`, and confidence from what the engine said."""
        depth, certainty = self._depth, self._confidence
        np.multiply(output.depth, self._metres_per_canonical * np.float32(scale), out=depth)
        confidence(output.log_scale, out=certainty)
        if self._bars is not None:
            depth[self._bars] = np.nan  # before edges are looked for: a bar's border is none
        mark_impossible(depth)
        mark_flying_pixels(depth, self.settings.flying_pixel_threshold)
        if self.settings.min_confidence > 0:
            np.copyto(depth, np.float32(np.nan), where=certainty < self.settings.min_confidence)
        if not self.settings.native_size:
            self.framing.to_image(depth, self._depth_out, outside=np.nan)
            self.framing.to_image(certainty, self._confidence_out, outside=0.0)
        apply_range(self._depth_out, self._min_depth, self._max_depth)
        # Last, because scaling spreads NaN and the range adds some.
        np.copyto(self._confidence_out, np.float32(0), where=np.isnan(self._depth_out))
        return DepthEstimate(self._depth_out, self._confidence_out, self._camera_out, engine_seconds)


def _aspect_difference(engine: DepthEngine, camera: CameraModel) -> float:
    ratio = (engine.width / engine.height) / (camera.width / camera.height)
    return max(ratio, 1 / ratio)
