"""The walk of a frame from message to messages, and the threads that do it."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from sem_depth_node.bad_input import BadInput
from sem_depth_node.calibration import Calibration, CalibrationReader
from sem_depth_node.engines.engine import EngineError
from sem_depth_node.estimator import DepthEstimator, Inference
from sem_depth_node.image_decoding import ImageDecoder, Pixels
from sem_depth_node.ros.diagnostics import FaultLog, FrameStatistics, FrameTiming
from sem_depth_node.ros.mailbox import Frame, Mailboxes
from sem_depth_node.ros.messages import depth_camera_info
from sem_depth_node.ros.outputs import FROM_DEPTH, DepthOutputs
from sem_depth_node.ros.parameters import Parameters
from sem_depth_node.ros.scale_check import CameraScaleCheck


@dataclass(frozen=True)
class InferredFrame:
    """A frame half way: the network has answered, nothing is published yet.

    Attributes:
        frame: as taken.
        wanted: topics that had subscribers then.
        parameters: of then.
        calibration: of the image.
        rgb: the rectified image.
        inference: the network's answer.
        taken, decoded, inferred: when, by `time.perf_counter`.
    """

    frame: Frame
    wanted: frozenset[str]
    parameters: Parameters
    calibration: Calibration
    rgb: Pixels
    inference: Inference
    taken: float
    decoded: float
    inferred: float


class FrameWalk:
    """Takes frames of one camera from message to messages, one at a time.

    Args:
        estimator: of this walk alone, so that what it keeps between frames fits; its engines may be shared.
        outputs: to publish on.
        parameters: called once a frame for the values of now.
        faults, statistics: told of every frame.
        scale_check: compares what comes out with LiDAR; None where there is none.
    """

    def __init__(
        self,
        estimator: DepthEstimator,
        outputs: DepthOutputs,
        parameters: Callable[[], Parameters],
        faults: FaultLog,
        statistics: FrameStatistics,
        scale_check: CameraScaleCheck | None = None,
    ) -> None:
        self._estimator, self._outputs = estimator, outputs
        self._parameters, self._faults, self._statistics = parameters, faults, statistics
        self._scale_check = scale_check
        self._decoder = ImageDecoder()
        self._calibrations = CalibrationReader(parameters().rectification_mode)

    def infer(self, frame: Frame) -> InferredFrame | None:
        """Decode and run the network. None for a frame that ends here; what went wrong has been reported then."""
        with self._reporting():
            return self._infer(frame)
        return None

    def publish(self, frame: InferredFrame) -> None:
        """Make metres of the answer and publish. What goes wrong is reported and does not get further."""
        with self._reporting():
            self._publish(frame)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except BadInput as bad:
            self._statistics.drop(bad.fault)
            self._faults.report(bad.fault, str(bad))
        except EngineError as error:
            self._statistics.drop("engine_failed")
            self._faults.report("engine_failed", str(error), severe=True)
        except Exception:  # a defect of ours: said in full, and a robot goes on
            self._statistics.drop("internal_error")
            self._faults.report("internal_error", traceback.format_exc(), severe=True)

    def _infer(self, frame: Frame) -> InferredFrame | None:
        taken = time.perf_counter()
        wanted = frozenset(self._outputs.wanted())
        if not wanted:
            self._statistics.drop("no_subscriber")
            return None
        parameters = self._parameters()
        settings = parameters.estimator_settings(self._estimator.bundle.manifest.depth_range)
        if settings != self._estimator.settings:
            self._estimator.settings = settings

        if parameters.rectification != self._calibrations.mode:
            self._calibrations = CalibrationReader(parameters.rectification_mode)

        decode = self._decoder.decode_compressed if parameters.compressed else self._decoder.decode
        raw = decode(frame.image)
        calibration = self._calibrations.read(frame.camera_info, raw.shape[1], raw.shape[0])
        camera = calibration.camera
        if camera.distortion:
            self._faults.report(
                "distorted_image",
                f"camera_info has {camera.distortion_model} distortion and parameter rectification is none: depth and "
                "cloud are off towards the edges",
            )
        if "depth/camera_info" in wanted:
            depth_camera = self._estimator.path_for(camera).framing.camera if parameters.native_size else camera
            self._outputs.publish_camera_info(
                depth_camera_info(frame.image.header, frame.camera_info, calibration.from_projection, depth_camera)
            )
        if not wanted & FROM_DEPTH:
            self._statistics.drop("no_subscriber")
            return None
        rgb = calibration.rectify(raw)
        decoded = time.perf_counter()
        inference = self._estimator.infer(rgb, camera)
        return InferredFrame(
            frame, wanted, parameters, calibration, rgb, inference, taken, decoded, inferred=time.perf_counter()
        )

    def _publish(self, frame: InferredFrame) -> None:
        resumed = time.perf_counter()
        header, parameters, rectification = frame.frame.image.header, frame.parameters, frame.calibration.rectification
        correction = self._scale_check.correction if self._scale_check is not None else 1.0
        estimate = frame.inference.to_estimate(correction)
        if rectification is not None:
            rectification.mark_unseen(estimate.depth, estimate.confidence, estimate.camera)
        estimated = time.perf_counter()

        colours = frame.inference.path.framing.to_engine(frame.rgb) if parameters.native_size else frame.rgb
        sending = self._outputs.publish_estimate(
            frame.wanted, header, estimate, colours, parameters.depth_encoding, parameters.preview_near
        )
        timing = FrameTiming(
            waiting=frame.taken - frame.frame.arrived + resumed - frame.inferred,
            decoding=frame.decoded - frame.taken,
            engine=estimate.engine_seconds,
            estimating=frame.inferred - frame.decoded - estimate.engine_seconds + estimated - resumed,
            building=time.perf_counter() - estimated - sending,
            publishing=sending,
        )
        if "depth/timing" in frame.wanted:
            self._outputs.publish_timing(header, timing)
        self._statistics.finish(timing)
        if self._scale_check is not None:  # last, so that no output waits for it
            depth_range = parameters.depth_range(self._estimator.bundle.manifest.depth_range)
            self._scale_check.compare(header, estimate, correction, depth_range)


class FrameWorkers:
    """Threads that take frames from mailboxes and walk them, until the mailboxes close.

    With one thread the network rests while a frame is decoded or published. With more, frames of several cameras grow
    older in front of it. A camera with two walks has its frames published beside, by another thread, while the network
    runs on the next one; one camera's frames stay in order.

    Args:
        mailboxes: to take from.
        walks: by camera, one or two.
        count: threads.
    """

    def __init__(self, mailboxes: Mailboxes, walks: Mapping[str, Sequence[FrameWalk]], count: int) -> None:
        self._mailboxes = mailboxes
        self._walks = {camera: deque(of_camera) for camera, of_camera in walks.items()}
        self._publishers = ThreadPoolExecutor(count, thread_name_prefix="publisher")
        self._publishing: dict[str, Future[Any]] = {}
        self._threads = [threading.Thread(target=self._run, name=f"frames {i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Close the mailboxes and wait for the frames in work."""
        self._mailboxes.close()
        for thread in self._threads:
            thread.join()
        self._publishers.shutdown()

    def _run(self) -> None:
        while (turn := self._mailboxes.take()) is not None:
            camera, frame = turn
            try:
                walks = self._walks[camera]
                inferred = walks[0].infer(frame)
                if inferred is None:
                    continue
                if len(walks) == 1:
                    walks[0].publish(inferred)
                else:
                    # Not two at once: frames stay in order, and the other walk is free for the next one.
                    if camera in self._publishing:
                        self._publishing[camera].result()
                    self._publishing[camera] = self._publishers.submit(walks[0].publish, inferred)
                    walks.rotate()
            finally:
                self._mailboxes.finish(camera)
