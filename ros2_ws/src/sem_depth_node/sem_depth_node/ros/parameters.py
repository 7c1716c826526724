"""The node's parameters: one table of names, defaults, descriptions and limits, and their checks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, cast

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from sem_depth_node.calibration import RectificationMode
from sem_depth_node.estimator import EstimatorSettings
from sem_depth_node.framing import Fit
from sem_depth_node.ros.mailbox import Pairing


def _parameter(
    default: Any,
    description: str,
    *,
    limits: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    fixed_while_configured: bool = False,
    read_only: bool = False,
) -> Any:
    if choices:
        description = f"{description} One of {', '.join(choices)}."
    if fixed_while_configured:
        description = f"{description} Takes effect at configure; change it while the node is unconfigured."
    metadata = {
        "description": description,
        "limits": limits,
        "choices": choices,
        "fixed_while_configured": fixed_while_configured,
        "read_only": read_only,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Parameters:
    """The values of all parameters of the node, checked.

    Raises:
        ValueError: a value is out of its limits, not one of its choices, or at odds with another; the message names
            the parameter.
    """

    bundle: str = _parameter(
        "", "Folder of the model bundle; empty takes the one that ships with the package.", fixed_while_configured=True
    )
    engine: str = _parameter(
        "auto",
        "What runs the network.",
        choices=("auto", "tensorrt", "openvino", "onnxruntime"),
        fixed_while_configured=True,
    )
    input_size: str = _parameter(
        "",
        "WIDTHxHEIGHT of the one input size of the bundle to load; empty sends each image to the size with the nearest "
        "aspect: TensorRT engines are all loaded, those for processors but the first when an image needs them.",
        fixed_while_configured=True,
    )
    engine_cache: str = _parameter(
        "",
        "Folder where compiled TensorRT engines are kept; empty takes the user's cache.",
        fixed_while_configured=True,
    )
    build_workspace: int = _parameter(
        2048,
        "GPU memory that a layer of a TensorRT engine may use for scratch, MiB. An engine built for another value is "
        "not taken.",
        limits=(1, 1 << 20),
        fixed_while_configured=True,
    )
    build_optimization_level: int = _parameter(
        3,
        "How long TensorRT searches for fast kernels: 0 builds quickly, 5 searches longest; TensorRT for RTX ignores "
        "it. An engine built for another value is not taken.",
        limits=(0, 5),
        fixed_while_configured=True,
    )
    threads: int = _parameter(
        0,
        "Threads of the CPU engine; 0 takes one per physical core.",
        limits=(0, 1024),
        fixed_while_configured=True,
    )
    cameras: tuple[str, ...] = _parameter(
        ("",),
        "Names of the cameras to serve. Each has the topics of a single camera below its name: front/image, "
        "front/depth/image and so on. A single empty name is one camera without a name.",
        fixed_while_configured=True,
    )
    workers: int = _parameter(
        1,
        "Frames of different cameras in work at once. With 2, one camera's frame is decoded or published while the "
        "network runs on another's: more frames, each a little later. ONNX Runtime runs both at once, other engines "
        "take turns.",
        limits=(1, 16),
        fixed_while_configured=True,
    )
    overlap: bool = _parameter(
        False,
        "Publish a frame while the network runs on the next one. Beside a GPU that gives more frames a second; the CPU "
        "engine needs the processor itself, and its frames come out older.",
        fixed_while_configured=True,
    )
    compressed: bool = _parameter(
        False,
        "The image topic carries sensor_msgs/CompressedImage (jpeg or png), not sensor_msgs/Image.",
        fixed_while_configured=True,
    )
    camera_info_pairing: str = _parameter(
        "latest",
        "The camera_info an image is paired with: the one of its stamp or else the newest that came, or only the one "
        "with exactly its stamp.",
        choices=("latest", "exact"),
        fixed_while_configured=True,
    )
    autostart: bool = _parameter(
        True, "Configure and activate at once, without waiting for a lifecycle manager.", read_only=True
    )
    rectification: str = _parameter(
        "here",
        "Images whose camera_info has distortion are rectified by this node (here); or they are rectified already and "
        "P is their K (upstream); or distortion is left alone (none). Without distortion K is used, and nothing done.",
        choices=("here", "upstream", "none"),
    )
    fit: str = _parameter(
        "crop",
        "How an image of another aspect than the network's input is fitted: cut at the sides, or above and below with "
        "the horizon kept in place (crop), or shown whole with bars (letterbox).",
        choices=("crop", "letterbox"),
    )
    native_size: bool = _parameter(
        False, "Publish at the size the network works in, with its own camera_info, instead of the image's."
    )
    min_depth: float = _parameter(
        0.0, "Metres; nearer is NaN. 0 takes the lower end of the bundle's range.", limits=(0.0, 1000.0)
    )
    max_depth: float = _parameter(
        0.0, "Metres; farther is +Inf. 0 takes the upper end of the bundle's range.", limits=(0.0, 1000.0)
    )
    flying_pixel_threshold: float = _parameter(
        EstimatorSettings.flying_pixel_threshold,
        "Relative change of depth per pixel of the network above which a pixel is NaN, as it hangs between two "
        "surfaces; 0 keeps all.",
        limits=(0.0, 10.0),
    )
    min_confidence: float = _parameter(0.0, "Pixels of lower confidence are NaN; 0 keeps all.", limits=(0.0, 1.0))
    depth_encoding: str = _parameter(
        "32FC1",
        "Of depth/image: 32FC1 is metres (NaN unknown, +Inf beyond range), 16UC1 millimetres (0 for both, and for all "
        "beyond 65.535 m).",
        choices=("32FC1", "16UC1"),
    )
    preview_near: float = _parameter(
        3.0, "Metres at the red end of the colours of depth/preview.", limits=(0.1, 1000.0)
    )
    scale_check_lidar: str = _parameter(
        "",
        "Topic of a LiDAR (sensor_msgs/PointCloud2) that the scale of depth is checked against, through /tf; empty "
        "checks nothing.",
        fixed_while_configured=True,
    )
    scale_check_period: float = _parameter(
        0.5, "Seconds between two frames of a camera that are checked.", limits=(0.0, 3600.0)
    )
    scale_check_threshold: float = _parameter(
        0.1, "Relative error of the scale above which diagnostics warn.", limits=(0.0, 10.0)
    )
    scale_check_apply: bool = _parameter(
        False, "Multiply depth by the scale that LiDAR found, once it is known and at most twofold."
    )
    input_timeout: float = _parameter(
        2.0, "Seconds without an image after which diagnostics say so.", limits=(0.1, 3600.0)
    )

    def __post_init__(self) -> None:
        for entry in fields(self):
            _check(entry, getattr(self, entry.name))
        if self.input_size:
            _parse_size(self.input_size)
        _check_cameras(self.cameras)
        if 0 < self.max_depth <= self.min_depth:
            raise ValueError(f"max_depth is {self.max_depth:g}, expected more than min_depth, {self.min_depth:g}")

    def changed(self, values: Mapping[str, Any], configured: bool) -> Parameters:
        """These parameters with some values replaced; names that are not ours are left out.

        Raises:
            ValueError: as for the class, or a value changes that takes effect at configure while `configured`.
        """
        ours = {entry.name: entry for entry in fields(self)}
        values = {name: _hashable(value) for name, value in values.items() if name in ours}
        for name, value in values.items():
            if configured and ours[name].metadata["fixed_while_configured"] and value != getattr(self, name):
                raise ValueError(
                    f"{name} takes effect at configure: clean up the node (lifecycle cleanup) to change it"
                )
        return replace(self, **values)

    def depth_range(self, bundle_range: tuple[float, float]) -> tuple[float, float]:
        """Nearest and farthest finite depth in metres: of the parameters, else of the bundle."""
        return self.min_depth or bundle_range[0], self.max_depth or bundle_range[1]

    def estimator_settings(self, depth_range: tuple[float, float]) -> EstimatorSettings:
        """What of this the estimator needs.

        Args:
            depth_range: of the bundle, metres.

        Raises:
            ValueError: the range that remains is empty.
        """
        low, high = self.depth_range(depth_range)
        if low >= high:
            raise ValueError(
                f"min_depth and max_depth leave no range: {low:g} m to {high:g} m (the bundle's own is "
                f"{depth_range[0]:g} m to {depth_range[1]:g} m)"
            )
        return EstimatorSettings(
            fit=cast(Fit, self.fit),
            native_size=self.native_size,
            min_depth=low,
            max_depth=high,
            flying_pixel_threshold=self.flying_pixel_threshold,
            min_confidence=self.min_confidence,
        )

    @property
    def engine_input_size(self) -> tuple[int, int] | None:
        """(height, width) to load, None for every size of the bundle."""
        return _parse_size(self.input_size) if self.input_size else None

    @property
    def rectification_mode(self) -> RectificationMode:
        """`rectification`, typed."""
        return cast(RectificationMode, self.rectification)

    @property
    def pairing(self) -> Pairing:
        """`camera_info_pairing`, typed."""
        return cast(Pairing, self.camera_info_pairing)


def declare(node: Node) -> Parameters:
    """Declare every parameter on `node`, and read what was given at start.

    Raises:
        rclpy.exceptions.ParameterException: a value given has the wrong type or was refused by a callback.
        ValueError: see `Parameters`.
    """
    values = {
        entry.name: _hashable(node.declare_parameter(entry.name, entry.default, _descriptor(entry)).value)
        for entry in fields(Parameters)
    }
    return Parameters(**values)


def _check(entry: Field[Any], value: Any) -> None:
    limits, choices = entry.metadata["limits"], entry.metadata["choices"]
    if choices and value not in choices:
        raise ValueError(f"{entry.name} is {value!r}, expected one of {', '.join(choices)}")
    if limits and not (math.isfinite(value) and limits[0] <= value <= limits[1]):
        raise ValueError(f"{entry.name} is {value}, expected a number from {limits[0]:g} to {limits[1]:g}")


def _descriptor(entry: Field[Any]) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=entry.metadata["description"],
        read_only=entry.metadata["read_only"],
        additional_constraints=", ".join(entry.metadata["choices"]),
    )
    limits = entry.metadata["limits"]
    if limits and isinstance(entry.default, int):
        descriptor.integer_range = [IntegerRange(from_value=int(limits[0]), to_value=int(limits[1]))]
    elif limits:
        descriptor.floating_point_range = [FloatingPointRange(from_value=limits[0], to_value=limits[1])]
    return descriptor


def _check_cameras(names: tuple[str, ...]) -> None:
    if not names or len(set(names)) < len(names):
        raise ValueError(f"cameras is {list(names)}, expected one or more names, all different")
    for name in names:
        if name == "" and len(names) == 1:
            continue
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*", name):
            raise ValueError(
                f"cameras holds {name!r}, expected names that topics can begin with: letters, digits and underscores, "
                "a letter first"
            )


def _hashable(value: Any) -> Any:
    # rclpy gives an array of strings as a list.
    return tuple(value) if isinstance(value, list) else value


def _parse_size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise ValueError(f"input_size is {text!r}, expected WIDTHxHEIGHT, as 640x192")
    return int(height), int(width)
