"""The walk of a frame from message to messages, and the threads that do it."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping

from sem_depth_node.bad_input import BadInput
from sem_depth_node.calibration import CalibrationReader
from sem_depth_node.engines.engine import EngineError
from sem_depth_node.estimator import DepthEstimator
from sem_depth_node.image_decoding import ImageDecoder
from sem_depth_node.ros.diagnostics import FaultLog, FrameStatistics, FrameTiming
from sem_depth_node.ros.mailbox import Frame, Mailboxes
from sem_depth_node.ros.messages import depth_camera_info
from sem_depth_node.ros.outputs import FROM_DEPTH, DepthOutputs
from sem_depth_node.ros.parameters import Parameters
from sem_depth_node.ros.scale_check import CameraScaleCheck


class FrameWalk:
    """Takes frames of one camera from message to messages.

    Args:
        estimator: of this camera alone, so that what it keeps between frames fits; its engines may be shared.
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

    def walk(self, frame: Frame) -> None:
        """Estimate depth and publish. What goes wrong is reported and does not get further."""
        try:
            self._walk(frame)
        except BadInput as bad:
            self._statistics.drop(bad.fault)
            self._faults.report(bad.fault, str(bad))
        except EngineError as error:
            self._statistics.drop("engine_failed")
            self._faults.report("engine_failed", str(error), severe=True)
        except Exception:  # a defect of ours: said in full, and a robot goes on
            self._statistics.drop("internal_error")
            self._faults.report("internal_error", traceback.format_exc(), severe=True)

    def _walk(self, frame: Frame) -> None:
        taken = time.perf_counter()
        wanted = self._outputs.wanted()
        if not wanted:
            self._statistics.drop("no_subscriber")
            return
        parameters = self._parameters()
        bundle_range = self._estimator.bundle.manifest.depth_range
        settings = parameters.estimator_settings(bundle_range)
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
        framing = self._estimator.path_for(camera).framing
        depth_camera = framing.camera if parameters.native_size else camera
        if "depth/camera_info" in wanted:
            self._outputs.publish_camera_info(
                depth_camera_info(frame.image.header, frame.camera_info, calibration.from_projection, depth_camera)
            )
        if not wanted & FROM_DEPTH:
            self._statistics.drop("no_subscriber")
            return
        rgb = calibration.rectify(raw)
        decoded = time.perf_counter()

        correction = self._scale_check.correction if self._scale_check is not None else 1.0
        estimate = self._estimator.estimate(rgb, camera, correction)
        if calibration.rectification is not None:
            calibration.rectification.mark_unseen(estimate.depth, estimate.confidence, estimate.camera)
        estimated = time.perf_counter()

        colours = framing.to_engine(rgb) if parameters.native_size else rgb
        self._outputs.publish_estimate(
            wanted, frame.image.header, estimate, colours, parameters.depth_encoding, parameters.preview_near
        )
        timing = FrameTiming(
            waiting=taken - frame.arrived,
            decoding=decoded - taken,
            engine=estimate.engine_seconds,
            estimating=estimated - decoded - estimate.engine_seconds,
            publishing=time.perf_counter() - estimated,
        )
        if "depth/timing" in wanted:
            self._outputs.publish_timing(frame.image.header, timing)
        self._statistics.finish(timing)
        if self._scale_check is not None:  # last, so that no output waits for it
            self._scale_check.compare(frame.image.header, estimate, correction, parameters.depth_range(bundle_range))


class FrameWorkers:
    """Threads that take frames from mailboxes and walk them, until the mailboxes close.

    With one thread the network rests while a frame is decoded or published. With more, frames grow older in front of
    it.

    Args:
        mailboxes: to take from.
        walks: by camera.
        count: threads.
    """

    def __init__(self, mailboxes: Mailboxes, walks: Mapping[str, FrameWalk], count: int) -> None:
        self._mailboxes, self._walks = mailboxes, walks
        self._threads = [threading.Thread(target=self._run, name=f"frames {i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Close the mailboxes and wait for the frames in work."""
        self._mailboxes.close()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (turn := self._mailboxes.take()) is not None:
            camera, frame = turn
            try:
                self._walks[camera].walk(frame)
            finally:
                self._mailboxes.finish(camera)
