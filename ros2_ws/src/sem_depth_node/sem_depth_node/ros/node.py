"""The lifecycle node: a camera stream in, metric depth and a point cloud out."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy._rclpy_pybind11 import RCLError
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from sem_depth_node.bundle import BundleError, ModelBundle
from sem_depth_node.engines.engine import EngineError
from sem_depth_node.engines.select import open_engines
from sem_depth_node.estimator import DepthEstimator
from sem_depth_node.ros import diagnostics
from sem_depth_node.ros.mailbox import Mailbox, stamp_of
from sem_depth_node.ros.outputs import DepthOutputs
from sem_depth_node.ros.parameters import declare
from sem_depth_node.ros.subscription import AdaptiveSubscription
from sem_depth_node.ros.worker import FrameWorker
from sem_depth_node.shipped import default_bundle

# Messages that may wait in the middleware: enough for a burst, so that what is dropped is dropped, and counted, here.
IMAGE_QUEUE, CAMERA_INFO_QUEUE = 5, 10
ADAPT_PERIOD, DIAGNOSTICS_PERIOD = 0.5, 1.0  # seconds
# An image without camera_info is worth a word only after this long: at the start either may come first.
CAMERA_INFO_GRACE = 1.0


class DepthNode(LifecycleNodeMixin, Node):  # type: ignore[misc]
    """Estimates metric depth of `image` with `camera_info`; README.md has the topics, parameters.py the parameters.

    `on_configure` loads and warms up the network, `on_activate` subscribes. The services of the lifecycle are answered
    beside everything else, so the node speaks while it configures; spin it with more than one thread.

    Args:
        options: passed on to `rclpy.node.Node`.

    Raises:
        ParameterException, ValueError: a parameter given at start is wrong.
    """

    def __init__(self, **options: Any) -> None:
        Node.__init__(self, "sem_depth", **options)
        LifecycleNodeMixin.__init__(self, callback_group=ReentrantCallbackGroup())
        self._transition = threading.Lock()
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._one_at_a_time(service.callback)
        self._values = declare(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)

        logger = self.get_logger()
        self._faults = diagnostics.FaultLog(logger.warning, logger.error)
        self._statistics = diagnostics.FrameStatistics()
        self._cancelled = threading.Event()
        self._state_in_words = (diagnostics.OK, "unconfigured")
        self._estimator: DepthEstimator | None = None
        self._outputs: DepthOutputs | None = None
        self._mailbox: Mailbox | None = None
        self._worker: FrameWorker | None = None
        self._image: AdaptiveSubscription | None = None
        self._camera_info: AdaptiveSubscription | None = None
        self._newest_stamp = 0
        self._without_camera_info_since: float | None = None

        self._input_group = MutuallyExclusiveCallbackGroup()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Steady, because with use_sim_time a paused or absent /clock would stop them.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(DIAGNOSTICS_PERIOD, self._publish_diagnostics, clock=self._steady)
        self.create_timer(ADAPT_PERIOD, self._adapt, callback_group=self._input_group, clock=self._steady)

    @property
    def autostart(self) -> bool:
        """Whether to `start` at once."""
        return self._values.autostart

    def start(self) -> None:
        """Configure and activate; stops where a transition fails, which has been logged then."""
        with self._transition:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()

    def stop(self) -> None:
        """End what is running and shut down the state machine; the node can be destroyed then."""
        self._cancelled.set()
        with self._transition:
            self.trigger_shutdown()

    # Transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle, make the engines and warm them up; FAILURE with one line for what cannot be used."""
        try:
            self._estimator = self._load()
            self._outputs = DepthOutputs(self)
        except (BundleError, EngineError, FileNotFoundError, ValueError) as error:
            self._state_in_words = diagnostics.ERROR, f"not configured: {error}"
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception:
            return self._failed("configure")
        self._state_in_words = diagnostics.OK, "inactive"
        engines = "; ".join(engine.description for engine in self._estimator.engines)
        self.get_logger().info(f"configured bundle {self._estimator.bundle.manifest.name!r} on {engines}")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and begin to work."""
        assert self._estimator is not None
        assert self._outputs is not None
        try:
            self._statistics = diagnostics.FrameStatistics()
            self._newest_stamp, self._without_camera_info_since = 0, None
            self._mailbox = Mailbox(self._values.pairing)
            self._worker = FrameWorker(
                self._mailbox,
                self._estimator,
                self._outputs,
                lambda: self._values,
                self._faults,
                self._statistics,
            )
            self._camera_info = AdaptiveSubscription(
                self, CameraInfo, "camera_info", self._on_camera_info, CAMERA_INFO_QUEUE, self._input_group
            )
            self._image = AdaptiveSubscription(
                self,
                CompressedImage if self._values.compressed else Image,
                "image",
                self._on_image,
                IMAGE_QUEUE,
                self._input_group,
            )
        except Exception:
            return self._failed("activate")
        self._state_in_words = diagnostics.OK, "active"
        self.get_logger().info(f"active: image {self._image.topic_name}, camera_info {self._camera_info.topic_name}")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and finish the frame in work."""
        self._end_work()
        self._state_in_words = diagnostics.OK, "inactive"
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the network and the publishers."""
        self._let_go()
        self._state_in_words = diagnostics.OK, "unconfigured"
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The same, from any state."""
        self._let_go()
        self._state_in_words = diagnostics.OK, "shut down"
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a transition that failed unexpectedly: back to unconfigured, for another try."""
        self._let_go()
        return TransitionCallbackReturn.SUCCESS

    def _load(self) -> DepthEstimator:
        parameters = self._values
        bundle = ModelBundle.load(Path(parameters.bundle) if parameters.bundle else default_bundle())
        settings = parameters.estimator_settings(bundle.manifest.depth_range)
        self._on_progress("loading the engine", 0.0)
        engines = open_engines(
            bundle,
            parameters.engine,
            parameters.engine_input_size,
            cache_dir=parameters.engine_cache or None,
            on_progress=self._on_progress,
            logger=self.get_logger(),
            threads=parameters.threads,
            cancelled=self._cancelled,
        )
        estimator = DepthEstimator(bundle, engines, settings)
        try:
            self._on_progress("warming up", 1.0)
            estimator.warm_up()
        except BaseException:
            estimator.close()
            raise
        return estimator

    def _on_progress(self, phase: str, fraction: float) -> None:
        self._state_in_words = diagnostics.OK, f"configuring: {phase} ({fraction:.0%})"

    def _failed(self, transition: str) -> TransitionCallbackReturn:
        # rclpy turns an exception into ERROR without a word, so the word is ours.
        report = traceback.format_exc()
        self._state_in_words = diagnostics.ERROR, f"{transition} failed: {report.splitlines()[-1]}"
        self.get_logger().error(f"{transition} failed unexpectedly:\n{report}")
        return TransitionCallbackReturn.ERROR

    def _end_work(self) -> None:
        for subscription in (self._image, self._camera_info):
            if subscription is not None:
                subscription.destroy()
        self._image = self._camera_info = None
        if self._worker is not None:
            self._worker.stop()
        self._worker = self._mailbox = None

    def _let_go(self) -> None:
        self._end_work()
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None
        if self._estimator is not None:
            self._estimator.close()
            self._estimator = None

    def _one_at_a_time(self, change_state: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """The service `change_state`, refusing what cannot be done now; rclpy's would end the node."""

        def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            response.success = False
            wish = request.transition.label or request.transition.id
            if not self._transition.acquire(blocking=False):
                self.get_logger().warning(f"transition {wish} refused: another one is in progress")
                return response
            try:
                return change_state(request, response)
            except RCLError:
                self.get_logger().warning(f"transition {wish} refused: not possible in this state")
                return response
            finally:
                self._transition.release()

        return answer

    # Input

    def _on_image(self, image: Image | CompressedImage) -> None:
        mailbox = self._mailbox
        if mailbox is None:
            return
        self._statistics.arrived()
        stamp = stamp_of(image)
        if stamp < self._newest_stamp:
            back = (self._newest_stamp - stamp) / 1e9
            self._faults.report(
                "stamp_backwards", f"image stamps jumped back by {back:.3f} s; starting over from there"
            )
            mailbox.restart()
        self._newest_stamp = stamp
        lonely = mailbox.waits_for_camera_info
        if mailbox.put_image(image) is not None:
            self._statistics.drop("no_camera_info" if lonely else "newer_came")

    def _on_camera_info(self, camera_info: CameraInfo) -> None:
        if self._mailbox is not None:
            self._mailbox.put_camera_info(camera_info)

    def _adapt(self) -> None:
        """Follow the publishers' QoS, and notice images that stay without camera_info."""
        for subscription in (self._image, self._camera_info):
            if subscription is not None and (change := subscription.adapt()):
                self.get_logger().info(change)
        mailbox, camera_info = self._mailbox, self._camera_info
        if mailbox is None or camera_info is None or not mailbox.waits_for_camera_info:
            self._without_camera_info_since = None
            return
        now = self._steady.now().nanoseconds / 1e9
        if self._without_camera_info_since is None:
            self._without_camera_info_since = now
        elif now - self._without_camera_info_since >= CAMERA_INFO_GRACE:
            exact = " with the stamp of an image" if self._values.pairing == "exact" else ""
            self._faults.report(
                "no_camera_info",
                f"images come without camera_info{exact}: {camera_info.topic_name} has {camera_info.publishers} "
                "publishers; without calibration there is no metric depth",
            )

    def _on_set_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        estimator = self._estimator
        try:
            changed = self._values.changed({p.name: p.value for p in parameters}, configured=estimator is not None)
            if estimator is not None:
                changed.estimator_settings(estimator.bundle.manifest.depth_range)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._values = changed
        return SetParametersResult(successful=True)

    # Diagnostics

    def _publish_diagnostics(self) -> None:
        name, estimator = self.get_fully_qualified_name().lstrip("/"), self._estimator
        level, message = self._state_in_words
        engine: dict[str, str] = {}
        if estimator is not None:
            manifest = estimator.bundle.manifest
            engine = {
                "bundle": manifest.name,
                "bundle folder": str(estimator.bundle.folder),
                "bundle digest": estimator.bundle.digest,
                "precision": manifest.precision,
                **{f"engine {i}": e.description for i, e in enumerate(estimator.engines)},
            }
        statuses = [diagnostics.diagnostic_status(f"{name}: state", level, message, name, engine)]
        if self._worker is not None:
            statuses.append(self._frames_status(name))
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostics.diagnostic_array(stamp, statuses))

    def _frames_status(self, name: str) -> Any:
        values = self._statistics.key_values()
        faults = self._faults.last
        for fault, age in faults:
            values[f"last {fault.kind}"] = f"{age:.0f} s ago: {fault.message}"
        for kind, count in self._faults.counts.items():
            values[f"count {kind}"] = str(count)
        fresh = [fault for fault, age in faults if age < diagnostics.FAULT_SHOWS]
        severe = [fault for fault in fresh if fault.severe]
        silent = self._statistics.seconds_without_image
        if severe:
            level, message = diagnostics.ERROR, f"{severe[0].kind}: {severe[0].message}"
        elif silent > self._values.input_timeout:
            image = self._image
            where = f"{image.topic_name} ({image.publishers} publishers)" if image is not None else "the image topic"
            level, message = diagnostics.STALE, f"no image on {where} for {silent:.1f} s"
        elif fresh:
            level, message = diagnostics.WARN, f"{fresh[0].kind}: {fresh[0].message}"
        elif self._outputs is not None and not self._outputs.wanted():
            level, message = diagnostics.OK, "idle: nobody subscribes to an output"
        else:
            latency = values.get("latency median (ms)")
            rate = values["output rate (Hz)"]
            level, message = diagnostics.OK, f"{rate} Hz" + (f", latency {latency} ms" if latency else "")
        return diagnostics.diagnostic_status(f"{name}: frames", level, message, name, values)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the console script: run the node until Ctrl-C or SIGTERM.

    Returns:
        0 after a stop that was asked for, 1 where the node could not start or broke down, 2 for wrong parameters.
    """
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    # Not rclpy's handlers: they take the context away at once, and the node could not leave in good order.
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        node = DepthNode()
    except (ParameterException, ValueError) as error:
        rclpy.logging.get_logger("sem_depth").fatal(f"wrong parameter: {error}")
        rclpy.shutdown()
        return 2
    executor = MultiThreadedExecutor(num_threads=4)
    executor.add_node(node)
    broken: list[BaseException] = []

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            pass
        except Exception as error:
            broken.append(error)
            node.get_logger().fatal(f"stopped spinning:\n{traceback.format_exc()}")
        finally:
            stopped.set()

    spinning = threading.Thread(target=spin, name="executor", daemon=True)
    spinning.start()
    if node.autostart:
        threading.Thread(target=node.start, name="autostart", daemon=True).start()
    stopped.wait()
    node.stop()
    executor.shutdown()
    spinning.join()
    node.destroy_node()
    rclpy.try_shutdown()
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
