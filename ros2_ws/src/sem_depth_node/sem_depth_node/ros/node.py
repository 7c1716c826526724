"""The lifecycle node: a camera stream in, metric depth and a point cloud out."""

from __future__ import annotations

import contextlib
import itertools
import os
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
from rclpy._rclpy_pybind11 import InvalidHandle, RCLError
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from sem_depth_node.bundle import BundleError, ModelBundle
from sem_depth_node.engines.engine import DepthEngine, EngineError
from sem_depth_node.engines.select import open_engines
from sem_depth_node.engines.shared import SharedEngine
from sem_depth_node.engines.tensorrt_build import BuildOptions
from sem_depth_node.estimator import DepthEstimator
from sem_depth_node.ros import diagnostics
from sem_depth_node.ros.camera_stream import CameraStream
from sem_depth_node.ros.mailbox import Mailboxes
from sem_depth_node.ros.parameters import declare
from sem_depth_node.ros.process_tuning import give_back_freed_memory, keep_freed_memory
from sem_depth_node.ros.scale_check import LidarScans
from sem_depth_node.ros.worker import FrameWorkers
from sem_depth_node.shipped import default_bundle

ADAPT_PERIOD, DIAGNOSTICS_PERIOD = 0.5, 1.0  # seconds


class DepthNode(LifecycleNodeMixin, Node):  # type: ignore[misc]
    """Estimates metric depth of `image` with `camera_info`; README.md has the topics, parameters.py the parameters.

    With several cameras, each has these topics below its name, and all share the network in fair turns.

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

        self._cancelled = threading.Event()
        self._state_in_words = (diagnostics.OK, "unconfigured")
        self._configured = False  # or about to be: some parameters are fixed then
        self._bundle: ModelBundle | None = None
        self._engines: list[DepthEngine] = []
        self._cameras: list[CameraStream] = []
        self._scans: LidarScans | None = None
        self._workers: FrameWorkers | None = None

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
            if self._cancelled.is_set():
                return
            try:
                if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                    self.trigger_activate()
            except RCLError:
                self.get_logger().info("not started: a lifecycle manager was quicker")

    def stop(self) -> None:
        """End what is running and shut down the state machine; the node can be destroyed then."""
        self._cancelled.set()
        with self._transition, contextlib.suppress(RCLError):  # which says that it is shut down already
            self.trigger_shutdown()

    # Transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle, make the engines and warm them up; FAILURE with one line for what cannot be used."""
        self._configured = True
        try:
            self._load()
            self._make_cameras()
        except (BundleError, EngineError, FileNotFoundError, ValueError) as error:
            self._let_go()
            self._state_in_words = diagnostics.ERROR, f"not configured: {error}"
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception:
            return self._failed("configure")
        self._state_in_words = diagnostics.OK, "inactive"
        assert self._bundle is not None
        engines = "; ".join(engine.description for engine in self._engines)
        self.get_logger().info(f"configured bundle {self._bundle.manifest.name!r} on {engines}")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and begin to work."""
        try:
            if self._scans is not None:
                self._scans.open()
            mailboxes = Mailboxes([camera.name for camera in self._cameras], self._values.pairing)
            walks = {camera.name: camera.open(mailboxes[camera.name]) for camera in self._cameras}
            self._workers = FrameWorkers(mailboxes, walks, self._values.workers)
        except ValueError as error:  # a topic's name, or an override of its QoS
            self._end_work()
            self._state_in_words = diagnostics.ERROR, f"not active: {error}"
            self.get_logger().error(f"cannot activate: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception:
            return self._failed("activate")
        self._state_in_words = diagnostics.OK, "active"
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

    def _load(self) -> None:
        parameters = self._values
        self._bundle = ModelBundle.load(Path(parameters.bundle) if parameters.bundle else default_bundle())
        self._values.estimator_settings(self._bundle.manifest.depth_range)  # refused now rather than frame by frame
        self._on_progress("loading the engine", 0.0)
        self._engines = open_engines(
            self._bundle,
            parameters.engine,
            parameters.engine_input_size,
            defer=True,
            cache_dir=parameters.engine_cache or None,
            on_progress=self._on_progress,
            logger=self.get_logger(),
            threads=parameters.threads,
            cancelled=self._cancelled,
            options=BuildOptions(parameters.build_workspace, parameters.build_optimization_level),
        )
        self._on_progress("warming up", 1.0)
        DepthEstimator(self._bundle, self._engines).warm_up()
        give_back_freed_memory()

    def _make_cameras(self) -> None:
        # The engines are the memory and are shared; an estimator keeps the framing and buffers of one camera.
        assert self._bundle is not None
        one_at_a_time = threading.Lock()
        if self._values.scale_check_lidar:
            self._scans = LidarScans(self, self._values.scale_check_lidar)
        for name in self._values.cameras:
            estimators = []
            for _ in range(2 if self._values.overlap else 1):
                engines = self._engines
                if self._values.workers > 1 or self._values.overlap:
                    engines = [SharedEngine(engine, one_at_a_time) for engine in engines]
                estimators.append(DepthEstimator(self._bundle, engines))
            camera = CameraStream(self, name, estimators, lambda: self._values, self._input_group, self._scans)
            self._cameras.append(camera)

    def _on_progress(self, phase: str, fraction: float) -> None:
        self._state_in_words = diagnostics.OK, f"configuring: {phase} ({fraction:.0%})"

    def _failed(self, transition: str) -> TransitionCallbackReturn:
        # rclpy turns an exception into ERROR without a word, so the word is ours.
        report = traceback.format_exc()
        self._state_in_words = diagnostics.ERROR, f"{transition} failed: {report.splitlines()[-1]}"
        self.get_logger().error(f"{transition} failed unexpectedly:\n{report}")
        return TransitionCallbackReturn.ERROR

    def _end_work(self) -> None:
        for camera in self._cameras:
            camera.close()
        if self._scans is not None:
            self._scans.close()
        if self._workers is not None:
            self._workers.stop()
        self._workers = None

    def _let_go(self) -> None:
        self._end_work()
        for camera in self._cameras:
            camera.destroy()
        self._scans = None
        for engine in self._engines:
            engine.close()
        self._cameras, self._engines, self._bundle, self._configured = [], [], None, False

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

    # Timers and parameters

    def _adapt(self) -> None:
        for camera in self._cameras:
            camera.adapt()
        if self._scans is not None:
            self._scans.adapt()

    def _on_set_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        bundle = self._bundle
        try:
            changed = self._values.changed({p.name: p.value for p in parameters}, configured=self._configured)
            if bundle is not None:
                changed.estimator_settings(bundle.manifest.depth_range)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._values = changed
        return SetParametersResult(successful=True)

    # Diagnostics

    def _publish_diagnostics(self) -> None:
        name, bundle = self.get_fully_qualified_name().lstrip("/"), self._bundle
        level, message = self._state_in_words
        engine: dict[str, str] = {}
        if bundle is not None:
            engine = {
                "bundle": bundle.manifest.name,
                "bundle folder": str(bundle.folder),
                "bundle digest": bundle.digest,
                "precision": bundle.manifest.precision,
                **{f"engine {i}": e.description for i, e in enumerate(self._engines)},
            }
        statuses = [diagnostics.diagnostic_status(f"{name}: state", level, message, name, engine)]
        if self._workers is not None:
            each = {camera.name: camera.statuses() for camera in self._cameras}
            if len(each) > 1:
                statuses.append(diagnostics.summary_status(f"{name}: cameras", name, each))
            statuses += itertools.chain.from_iterable(each.values())
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostics.diagnostic_array(stamp, statuses))


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the console script: run the node until Ctrl-C or SIGTERM.

    Returns:
        0 after a stop that was asked for, 1 where the node could not start or broke down, 2 for wrong parameters.
    """
    keep_freed_memory()
    # Of Fast DDS: a thread of its own sends what is published, while ours goes on with the next frame.
    os.environ.setdefault("RMW_FASTRTPS_PUBLICATION_MODE", "ASYNCHRONOUS")
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except (RuntimeError, ValueError) as error:  # of rclpy, for what follows --ros-args
        print(f"sem_depth_node: wrong arguments: {error}", file=sys.stderr)
        return 2
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
            while rclpy.ok() and not stopped.is_set():
                # What another thread destroys just as the executor is about to wait for it is gone, and no fault.
                with contextlib.suppress(InvalidHandle):
                    executor.spin_once(timeout_sec=ADAPT_PERIOD)
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
    # In turns, because a signal that comes just before a wait begins does not end that wait.
    while not stopped.wait(0.2):
        pass
    spinning.join()  # shut down under it, the executor would take away what it waits on
    node.stop()
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
