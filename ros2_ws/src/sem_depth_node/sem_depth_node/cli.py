"""The command line: `sem-depth COMMAND`. Each command imports what it needs, so that help and completion are quick."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import signal
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from rclpy.node import Node
    from rich.progress import Progress, TaskID

    from sem_depth_node.bags.evaluate import Scores
    from sem_depth_node.estimator import DepthEstimator

Number = TypeVar("Number", int, float)

app = typer.Typer(
    name="sem-depth",
    help="Metric depth and point clouds from one camera: play, process, score and make bags.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_NO_ROS = (
    "this command needs ROS 2 ({error}): source your distribution's setup.bash, or "
    "`pip install './ros2_ws/src/sem_depth_node[ros]'` in a checkout"
)

# Only commands on bags need them, and a ROS distribution need not have them: the extra `bags` of setup.py.
_BAG_PACKAGES = ("rosbags", "mcap", "matplotlib")

# What is said about the work goes to stderr; results go to stdout.
messages = Console(stderr=True, highlight=False, soft_wrap=True)


def _writable(file: Path | None) -> Path | None:
    """A file to write when the work is done: where its folder cannot be, that is said before."""
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise typer.BadParameter(f"{file.parent}: cannot be made a folder ({error.strerror})") from error
        if file.is_dir():
            raise typer.BadParameter(f"{file}: is a folder, expected the name of a file")
    return file


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"expected a finite number, found {value}")
    return value


def _above_zero(value: float) -> float:
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"expected a number above 0, found {value}")
    return value


def _namespace(name: str) -> str:
    if name and not re.fullmatch(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", name, re.ASCII):
        raise typer.BadParameter(f"expected letters, digits and underscores, as /front/left, found {name!r}")
    return name


Bag = Annotated[Path, typer.Argument(help="rosbag1 file, rosbag2 folder, or a bare .mcap or .db3 file.", metavar="BAG")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The rosbag2 folder to make.")]
ImageTopic = Annotated[str | None, typer.Option(help="Camera image topic; found where the bag has one camera.")]
InfoTopic = Annotated[str | None, typer.Option("--camera-info-topic", help="Its camera_info; found beside it.")]
LidarTopic = Annotated[str | None, typer.Option(help="PointCloud2 topic of the LiDAR; found where there is one.")]
Bundle = Annotated[Path | None, typer.Option(help="Model bundle; the shipped one by default.")]
Engine = Annotated[str, typer.Option(help="auto, tensorrt, openvino or onnxruntime.")]
Rectified = Annotated[
    bool, typer.Option("--rectified", help="Images are rectified while K and D are the raw camera's: use P.")
]
Rate = Annotated[float, typer.Option("--rate", "-r", help="Speed relative to the recording.", callback=_finite)]
Start = Annotated[
    float, typer.Option("--start", "-s", help="Seconds into the bag at which to begin.", callback=_finite)
]
Duration = Annotated[
    float | None, typer.Option("--duration", "-d", help="Seconds of the bag to play.", callback=_finite)
]
Report = Annotated[Path | None, typer.Option(help="Write the results as JSON to this file.", callback=_writable)]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace an output that exists.")]


class ReliabilityChoice(str, Enum):
    """Where the reliability offered by replayed topics comes from."""

    bag = "bag"
    reliable = "reliable"
    best_effort = "best_effort"


class CropChoice(str, Enum):
    """Part of an image that counts in a score."""

    garg = "garg"
    eigen = "eigen"
    none = "none"


class StorageChoice(str, Enum):
    """Format of a rosbag2."""

    mcap = "mcap"
    sqlite3 = "sqlite3"


def main() -> None:
    """Entry point of the console script."""
    # Both unwind what is open. A script's background job inherits an ignored SIGINT, so it is set, not left as it is.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        app()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _BAG_PACKAGES:
            raise
        messages.print(f"[bold red]error:[/] this command needs {package}: `pip install {' '.join(_BAG_PACKAGES)}`")
        raise SystemExit(2) from None


@app.command()
def replay(
    bag: Bag,
    rate: Rate = 1.0,
    loop: Annotated[bool, typer.Option("--loop", "-l", help="Start again at the end, until Ctrl-C.")] = False,
    start: Start = 0.0,
    duration: Duration = None,
    topics: Annotated[
        list[str] | None, typer.Option("--topics", "-t", help="Topic to play; repeat for several. All by default.")
    ] = None,
    clock: Annotated[bool, typer.Option("--clock", help="Publish the bag's time on /clock (use_sim_time).")] = False,
    reliability: Annotated[
        ReliabilityChoice,
        typer.Option(help="What publishers offer: as recorded (reliable where the bag does not say), or one for all."),
    ] = ReliabilityChoice.bag,
    wait_for: Annotated[
        int, typer.Option(help="Subscriptions (all topics together) to wait for before playing; 0 does not wait.")
    ] = 1,
    wait_timeout: Annotated[
        float, typer.Option(help="Seconds to wait for them; then it plays anyway.", callback=_finite)
    ] = 5.0,
    report: Report = None,
) -> None:
    """Publish a bag over ROS 2 at its recorded rate."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from sem_depth_node.bags.reader import BagError, BagReader
    from sem_depth_node.bags.replay import NANOSECONDS, ReplaySettings, select_span

    with _exit_2_on(BagError, ValueError):
        settings = ReplaySettings(rate, loop, start, duration, topics or None)
        with BagReader(bag) as reader:
            begin, end = select_span(reader, settings)
            with _ros("sem_depth_replay") as node:
                from sem_depth_node.ros.replay import BagPlayer

                player = BagPlayer(node, reader, settings, clock=clock, reliability=reliability.value)
                for topic, reason in player.report.skipped.items():
                    messages.print(f"not published: {topic} ({reason})")
                if wait_for and not player.wait_for_subscriptions(wait_for, wait_timeout):
                    messages.print(
                        f"{player.report.subscriptions} of {wait_for} subscriptions after {wait_timeout:g} s; "
                        "playing anyway"
                    )
                columns = (
                    TextColumn("{task.description}"),
                    BarColumn(),
                    TextColumn("{task.completed:.1f} of {task.total:.1f} s"),
                    TimeElapsedColumn(),
                )
                progress = Progress(*columns, console=messages, disable=not messages.is_terminal, transient=True)
                with progress, contextlib.suppress(KeyboardInterrupt):
                    task = progress.add_task(bag.name, total=(end - begin) / NANOSECONDS)
                    player.play(lambda m: progress.update(task, completed=(m.time - begin) / NANOSECONDS))
                done = player.report
    total = sum(done.published.values())
    messages.print(
        f"published {total} messages on {len(done.published)} topics in {done.seconds:.1f} s, "
        f"at most {done.latest * 1e3:.0f} ms late"
    )
    if report is not None:
        report.write_text(json.dumps(asdict(done), indent=2) + "\n")


@app.command()
def record(
    topics: Annotated[
        list[str],
        typer.Argument(help="Topics; TOPIC=TYPE does not wait for its publisher.", metavar="TOPIC[=TYPE]..."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The rosbag2 folder to make (mcap).")],
    compress: Annotated[bool, typer.Option("--compress/--no-compress", help="zstd the mcap's chunks.")] = False,
    force: Force = False,
    wait_timeout: Annotated[
        float, typer.Option(help="Seconds to wait for each topic to have a publisher.", callback=_finite)
    ] = 30.0,
) -> None:
    """Record topics into a bag until Ctrl-C (or SIGTERM)."""
    from rosbags.typesys import TypesysError

    from sem_depth_node.bags.reader import BagError
    from sem_depth_node.bags.writer import BagWriter

    try:
        from rclpy.exceptions import InvalidTopicNameException
    except ImportError as error:
        fail(_NO_ROS.format(error=error))
    known = {name: kind or None for name, _, kind in (topic.partition("=") for topic in topics)}
    with (
        _exit_2_on(BagError, TimeoutError, ImportError, ValueError, InvalidTopicNameException, TypesysError),
        BagWriter(out, compress=compress, force=force, sweep=False) as writer,
        _ros("sem_depth_record") as node,
    ):
        import rclpy

        from sem_depth_node.ros.recorder import Recorder, wait_for_publishers

        found = wait_for_publishers(node, known, wait_timeout)
        recorder = Recorder(node, writer)
        try:
            for topic, (message_type, reliable) in found.items():
                recorder.subscribe(topic, message_type, reliable=reliable)
            messages.print(f"recording {len(found)} topics into {out}")
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    rclpy.spin_once(node, timeout_sec=0.5)
        finally:
            recorder.close()
    messages.print(f"{out}: " + ", ".join(f"{topic} {count}" for topic, count in recorder.received.items()))


@app.command()
def process(
    bag: Bag,
    out: Out,
    bundle: Bundle = None,
    engine: Engine = "auto",
    image_topic: ImageTopic = None,
    camera_info_topic: InfoTopic = None,
    namespace: Annotated[
        str, typer.Option(help="Put before the outputs' names, as a node's namespace is.", callback=_namespace)
    ] = "",
    cloud: Annotated[bool, typer.Option(help="Write /depth/points, by far the largest output.")] = True,
    compress: Annotated[bool, typer.Option(help="zstd the mcap's chunks.")] = True,
    rectified: Rectified = False,
    force: Force = False,
) -> None:
    """Copy a bag with depth, confidence, preview and cloud beside its images; no ROS needed, no frame dropped."""
    import statistics

    from rich.progress import track

    from sem_depth_node.bags.process import FrameEstimator, process_bag
    from sem_depth_node.bags.reader import BagError, BagReader
    from sem_depth_node.bags.streams import find_camera
    from sem_depth_node.bags.writer import check_replaceable

    with _exit_2_on(BagError), BagReader(bag) as reader:
        check_replaceable(out, force)  # before an engine is loaded for nothing
        stream = find_camera(reader, image_topic, camera_info_topic)
        with _estimator(bundle, engine) as estimator:
            frames = FrameEstimator(estimator, stream, rectified=rectified)
            count = reader.topics[stream.image].count
            steps = iter(track(range(count), stream.image, console=messages, transient=True))
            report = process_bag(
                reader,
                frames,
                out,
                compress=compress,
                force=force,
                namespace=namespace,
                cloud=cloud,
                on_frame=lambda: next(steps, None),
            )
    if report.left_out:
        messages.print(
            f"not copied, as the bag does not define their types: {', '.join(report.left_out)}", markup=False
        )
    for line in report.bad.in_words():
        messages.print(f"not used: {line}", markup=False)
    median = 1e3 * statistics.median(report.engine_seconds)
    messages.print(f"{out}: depth for {report.frames} images, engine {median:.1f} ms median")


@app.command()
def evaluate(
    bag: Bag,
    run: Annotated[bool, typer.Option("--run", help="Compute depth now, instead of scoring recorded depth.")] = False,
    predictions: Annotated[
        Path | None, typer.Option(help="Bag with the recorded depth, where BAG has only LiDAR and transforms.")
    ] = None,
    depth_topic: Annotated[str, typer.Option(help="Recorded depth; its camera_info is beside it.")] = "/depth/image",
    bundle: Bundle = None,
    engine: Engine = "auto",
    image_topic: ImageTopic = None,
    camera_info_topic: InfoTopic = None,
    lidar_topic: LidarTopic = None,
    rectified: Rectified = False,
    crop: Annotated[CropChoice, typer.Option(help="Part of the image that counts.")] = CropChoice.garg,
    max_depth: Annotated[
        float, typer.Option(help="Metres up to which measurements count.", callback=_above_zero)
    ] = 80.0,
    keep_hidden: Annotated[
        bool, typer.Option("--keep-hidden", help="Keep LiDAR points that an object hides from the camera.")
    ] = False,
    fixed_frame: Annotated[
        str | None, typer.Option(help='A frame at rest ("map"), to undo the motion between scan and image.')
    ] = None,
    median_scaling: Annotated[
        bool, typer.Option("--median-scaling", help="Scale each frame to the median of its LiDAR first.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for evaluation.json and .png.")] = None,
) -> None:
    """Score depth against the LiDAR in a bag: KITTI metrics, by range and by frame."""
    from rich.progress import track

    from sem_depth_node.bags import evaluate as scoring
    from sem_depth_node.bags.evaluation_plots import write_evaluation_plots
    from sem_depth_node.bags.latency import node_timing
    from sem_depth_node.bags.process import FrameEstimator
    from sem_depth_node.bags.reader import BagError, BagReader
    from sem_depth_node.bags.streams import find_camera, find_lidar, unstamped

    protocol = scoring.Protocol(crop.value, max_depth, not keep_hidden, median_scaling)
    with _exit_2_on(BagError, OSError), contextlib.ExitStack() as stack:
        reader = stack.enter_context(BagReader(bag))
        recording = reader if predictions is None else stack.enter_context(BagReader(predictions))
        lidar = find_lidar(reader, lidar_topic)
        if lidar is None:
            raise BagError(f"{bag}: no LiDAR (sensor_msgs/msg/PointCloud2) to compare with; {reader.listing()}")
        truth = scoring.LidarDepth(reader, lidar, hidden_removed=not keep_hidden, fixed_frame=fixed_frame)
        folder = depth_topic.rpartition("/")[0]
        if run:
            stream = find_camera(reader, image_topic, camera_info_topic)
            estimator = stack.enter_context(_estimator(bundle, engine))
            frames = scoring.computed_predictions(reader, FrameEstimator(estimator, stream, rectified=rectified))
            topic, timing = stream.image, None
        else:
            if depth_topic not in recording.topics:
                raise BagError(
                    f"{recording.path}: no topic {depth_topic}; --run computes depth now; {recording.listing()}"
                )
            frames = scoring.recorded_predictions(recording, depth_topic, f"{folder}/camera_info")
            topic, timing = depth_topic, node_timing(recording, f"{folder}/timing")
        source = reader if run else recording
        for name in (*unstamped(source, [topic]), *unstamped(reader, [lidar])):
            messages.print(f"{name}: without stamps; its messages are taken to be from when they were recorded")
        total = source.topics[topic].count
        scores = scoring.score(track(frames, topic, total, console=messages, transient=True), truth, protocol)
        if not scores.frames:
            raise BagError(f"{bag}: no frame of {topic} could be scored: {scores.left_out(lidar)}")
    report = {"bag": str(bag), "depth": topic, "lidar": lidar, **scores.as_report()}
    report["timing_ms"] = None if timing is None else asdict(timing)
    for line in scores.bad.in_words():
        messages.print(f"not used: {line}", markup=False)
    _print_scores(scores, title=f"{bag}: {topic} against {lidar}")
    if timing is not None:
        messages.print(
            f"node: latency {timing.latency.median:.1f} ms median, {timing.latency.p95:.1f} ms p95; "
            f"engine {timing.engine.median:.1f} ms, overhead {timing.overhead.median:.1f} ms"
        )
    if out is not None:
        with _exit_2_on(OSError):
            out.mkdir(parents=True, exist_ok=True)
            (out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
            write_evaluation_plots(out / "evaluation.png", bag.name, scores)
        messages.print(f"{out}: evaluation.json, evaluation.png")


def _print_scores(scores: Scores, title: str) -> None:
    from rich.columns import Columns
    from rich.table import Table

    table = Table("metric", "mean")
    for name, value in scores.mean.items():
        table.add_row(name, f"{value:.3f}")
    ranges = Table("measured depth", "pixels", "AbsRel", "RMSE (m)", "bias (m)")
    for part in (part.summary() for part in scores.ranges if part.pixels):
        numbers = (f"{part['abs_rel']:.3f}", f"{part['rmse']:.2f}", f"{part['bias']:+.2f}")
        ranges.add_row(f"{part['from']:g} to {part['to']:g} m", str(part["pixels"]), *numbers)
    console = Console(highlight=False)
    console.print(title, markup=False)
    console.print(Columns([table, ranges]))
    console.print(f"{len(scores.frames)} frames; {scores.protocol}")


@app.command()
def demo(
    bag: Annotated[
        Path | None, typer.Option(help="Bag to play; the drive that ships with the package by default.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for recording, picture, report.")] = Path("out/demo"),
    bundle: Bundle = None,
    engine: Engine = "auto",
    image_topic: ImageTopic = None,
    camera_info_topic: InfoTopic = None,
    lidar_topic: LidarTopic = None,
    rate: Rate = 1.0,
    start: Start = 0.0,
    duration: Duration = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="Of the node, as NAME:=VALUE; repeat for several.")
    ] = None,
) -> None:
    """Play a drive through the real node over DDS; measure, record and draw what comes out."""
    from sem_depth_node.bags.reader import BagError, BagReader
    from sem_depth_node.bags.streams import find_camera, find_lidar
    from sem_depth_node.child_process import ProcessError
    from sem_depth_node.demo.processes import DemoSettings
    from sem_depth_node.demo.run import report_table, run_demo
    from sem_depth_node.shipped import shipped_folder

    with _exit_2_on(BagError, OSError):
        bag = bag or shipped_folder("demo")
        out.mkdir(parents=True, exist_ok=True)
        with BagReader(bag) as reader:
            stream = find_camera(reader, image_topic, camera_info_topic)
            if lidar_topic is not None:
                find_lidar(reader, lidar_topic)  # refused now, where it is not one
        settings = DemoSettings(bag, stream, out, bundle, engine, rate, start, duration, parameter or ())
        try:
            with messages.status("demo") as status:
                report = run_demo(settings, lidar_topic, status.update)
        except ProcessError as error:
            messages.print(f"[bold red]demo failed:[/] {escape(str(error))}")
            raise typer.Exit(1) from None
    Console().print(report_table(report))
    messages.print(f"{out}: contact_sheet.png, report.json, recording/")


@app.command("kitti-to-bag")
def kitti_to_bag(
    folder: Annotated[Path, typer.Argument(help="Raw drive, odometry sequence, or object training/testing folder.")],
    out: Out,
    camera: Annotated[
        list[int] | None, typer.Option("--camera", "-c", help="Camera 0 to 3; repeat for several. All by default.")
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help="Folder of calib_*.txt, where not beside the drive.")] = None,
    storage: Annotated[StorageChoice, typer.Option(help="Format of the bag.")] = StorageChoice.mcap,
    compressed: Annotated[bool, typer.Option(help="Images as KITTI's own files, not pixels.")] = False,
    force: Force = False,
) -> None:
    """Make a rosbag2 of KITTI: images, calibration, LiDAR, transforms, GPS and IMU at their original times."""
    import time

    from sem_depth_node.bags.kitti.convert import kitti_to_bag as convert
    from sem_depth_node.bags.kitti.convert import open_kitti
    from sem_depth_node.bags.kitti.files import KittiError
    from sem_depth_node.bags.reader import BagError

    began = time.monotonic()
    with _exit_2_on(KittiError, BagError, OSError), messages.status(f"converting {folder}") as status:
        count = itertools.count(1)
        report = convert(
            open_kitti(folder, calibration),
            out,
            cameras=camera or None,
            storage=storage.value,
            compressed=compressed,
            force=force,
            on_message=lambda: status.update(f"converting {folder}: {next(count)} messages"),
        )
    seconds = time.monotonic() - began
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    for note in report.notes:
        messages.print(note, markup=False)
    for topic, number in sorted(report.messages.items()):
        messages.print(f"{topic}: {number}")
    messages.print(f"{out}: {sum(report.messages.values())} messages, {size:.1f} MB in {seconds:.1f} s", markup=False)


@app.command("waymo-to-bag")
def waymo_to_bag(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder with camera_image/, lidar/ and so on (version 2), or a .tfrecord file (version 1).",
            metavar="FOLDER|TFRECORD",
        ),
    ],
    out: Out,
    segment: Annotated[str | None, typer.Option(help="Name of the segment, where FOLDER has several.")] = None,
    camera: Annotated[
        list[str] | None,
        typer.Option("--camera", "-c", help="front, front_left, ...; repeat for several. All by default."),
    ] = None,
    lidar: Annotated[bool, typer.Option(help="Write the lasers' points; without, their files are not needed.")] = True,
    frames: Annotated[int | None, typer.Option(min=1, help="Take only so many frames.")] = None,
    storage: Annotated[StorageChoice, typer.Option(help="Format of the bag.")] = StorageChoice.mcap,
    compress: Annotated[bool, typer.Option(help="zstd the mcap's chunks.")] = False,
    force: Force = False,
) -> None:
    """Make a rosbag2 of a segment of the Waymo Open Dataset: five cameras, the lasers' points, transforms."""
    import time

    from sem_depth_node.bags.reader import BagError
    from sem_depth_node.bags.waymo.convert import waymo_to_bag as convert
    from sem_depth_node.bags.waymo.segment import WaymoError, WaymoSegment
    from sem_depth_node.bags.waymo.tfrecord import TfrecordSegment

    began = time.monotonic()
    with _exit_2_on(BagError, WaymoError, OSError), messages.status(f"converting {source}") as status:
        opened: WaymoSegment
        if source.is_file():
            opened = TfrecordSegment(source, lidar=lidar)
        else:
            try:
                from sem_depth_node.bags.waymo.parquet import ParquetSegment
            except ImportError as error:
                fail(f"reading parquet needs pyarrow ({error}): `pip install 'pyarrow>=12'`")
            opened = ParquetSegment(source, segment, lidar=lidar)
        report = convert(
            opened,
            out,
            cameras=camera or (),
            max_frames=frames,
            storage=storage.value,
            compress=compress,
            force=force,
            on_frame=lambda done: status.update(f"converting {opened.name}: {done} frames"),
        )
    seconds = time.monotonic() - began
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    for what, count in sorted(report.missing.items()):
        messages.print(f"missing: {what} in {count} of {report.frames} frames")
    messages.print(
        f"{out}: {report.frames} frames, {sum(report.images.values())} images of {len(report.images)} cameras, "
        f"{report.clouds} clouds, {size:.1f} MB in {seconds:.1f} s",
        markup=False,
    )


@app.command()
def benchmark(
    bundle: Annotated[Path | None, typer.Option(help="Bundle to measure; the shipped compact one by default.")] = None,
    engine: Annotated[str, typer.Option(help="auto, tensorrt, openvino or onnxruntime.")] = "auto",
    image_size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the camera image.")] = "1242x375",
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Another ONNX network or bundle to time in the same turns; repeat for several."),
    ] = None,
    threads: Annotated[
        str, typer.Option(help="Threads of the CPU engine; 0 takes one per core. Several, as 1,2, are compared.")
    ] = "0",
    rounds: Annotated[int, typer.Option(help="Turns each subject gets.")] = 10,
    repetitions: Annotated[int, typer.Option(help="Runs in a turn.")] = 5,
    node: Annotated[bool, typer.Option(help="Measure the whole node over DDS, too.")] = True,
    node_rates: Annotated[str, typer.Option(help="Images a second shown to the node; 30 is more than it takes.")] = (
        "10,30"
    ),
    node_rounds: Annotated[int, typer.Option(help="Turns of the node at each rate and number of threads.")] = 2,
    node_seconds: Annotated[
        float, typer.Option(help="Seconds of a turn of the node that count.", callback=_above_zero)
    ] = 8.0,
    overlap: Annotated[bool, typer.Option(help="Measure the node with its parameter overlap as well.")] = False,
    shared_memory: Annotated[bool, typer.Option(help="Use the shared memory profile that ships, for images.")] = True,
    report: Report = None,
) -> None:
    """Time the engine, the estimator, the frame path and the whole node on this machine, in turns."""
    from sem_depth_node.benchmark.machine import company, peak_memory_mib, this_machine
    from sem_depth_node.benchmark.report import as_json, nodes_table, timings_table
    from sem_depth_node.benchmark.subjects import cloud_subjects, engine_subjects, frame_path_subjects, onnx_subject
    from sem_depth_node.benchmark.turns import time_in_turns
    from sem_depth_node.bundle import BundleError, ModelBundle
    from sem_depth_node.camera import CameraModel
    from sem_depth_node.child_process import ProcessError
    from sem_depth_node.engines.engine import EngineError
    from sem_depth_node.engines.select import open_engines
    from sem_depth_node.estimator import DepthEstimator
    from sem_depth_node.shipped import default_bundle

    machine = this_machine()
    with _exit_2_on(BundleError, EngineError, ValueError), company() as others:
        width, height = _size(image_size)
        counts = _numbers(threads, "--threads", int, "whole numbers from 0 on", lambda count: count >= 0)
        rates = _numbers(node_rates, "--node-rates", float, "numbers above 0", lambda rate: 0 < rate < math.inf)
        loaded = ModelBundle.load(bundle or default_bundle())
        subjects = []
        for count in counts:
            engines = open_engines(loaded, engine, threads=count)
            remark = f", {count} threads" if len(counts) > 1 else ""
            subjects += engine_subjects(engines, remark)
        for other in against or ():
            if other.is_dir():
                rival = ModelBundle.load(other)
                for count in counts:
                    subjects += engine_subjects(open_engines(rival, engine, threads=count), f", {rival.manifest.name}")
            else:
                subjects += [onnx_subject(other, count) for count in counts]
        estimator = DepthEstimator(loaded, engines)
        estimator.warm_up()
        camera = CameraModel(width, height, 0.58 * width, 0.58 * width, width / 2 - 0.5, 0.46 * height)
        subjects += frame_path_subjects(estimator, camera) + cloud_subjects(camera)
        timings = time_in_turns(subjects, rounds, repetitions)
        peak = peak_memory_mib()
        estimator.close()
    Console().print(timings_table(timings, f"{loaded.manifest.name}, {engine}"))
    Console(highlight=False).print(
        f"{machine}; {rounds} turns of {repetitions}; peak memory {peak:.0f} MiB; others used {others.processors} "
        "processors meanwhile"
    )
    nodes = []
    if node:
        _use_shared_memory(shared_memory)
        with _exit_2_on(ImportError, FileNotFoundError, ValueError, ProcessError), messages.status("") as status:
            from sem_depth_node.ros.node_benchmark import NodeSetup, measure_node

            setups = []
            for rate, count, beside in itertools.product(rates, counts, (False, True)[: 1 + overlap]):
                name = f"{rate:g} Hz" + (f", {count} threads" if len(counts) > 1 else "") + ", overlap" * beside
                parameters = [f"engine:={engine}", f"threads:={count}", f"overlap:={str(beside).lower()}"]
                parameters.append(f"bundle:={loaded.folder.resolve()}")
                setups.append(NodeSetup(name, tuple(parameters), rate, width, height))
            nodes = measure_node(setups, node_rounds, node_seconds, status.update)
        Console().print(nodes_table(nodes))
        Console(highlight=False).print(
            f"{node_rounds} turns of {node_seconds:g} s; median (5 % .. 95 %) of the frames answered; age: from the "
            "image's stamp to the output's arrival in another process"
        )
    if report is not None:
        report.write_text(json.dumps(as_json(loaded.manifest.name, machine, others, timings, nodes), indent=2) + "\n")


def _use_shared_memory(wanted: bool) -> None:
    """Give this process, and those it starts, the profile with room for images; a profile that is set already stays."""
    from sem_depth_node.shipped import shipped_folder

    if wanted:
        for variable in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
            os.environ.setdefault(variable, str(shipped_folder("config") / "fastdds_shared_memory.xml"))


@app.command("build-engine")
def build_engine(
    bundle: Annotated[
        Path | None, typer.Argument(help="Model bundle; the shipped compact one by default.", metavar="BUNDLE")
    ] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(help="GPU to build for, such as 8.9; this machine's by default. Others need TensorRT-RTX."),
    ] = None,
    library: Annotated[
        str | None, typer.Option(help="tensorrt or tensorrt_rtx; by default whichever is installed, in this order.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(help="Input size WIDTHxHEIGHT to build; repeat for several. All the bundle has by default."),
    ] = None,
    workspace: Annotated[int, typer.Option(help="GPU memory that a layer may use for scratch, MiB.")] = 2048,
    optimization_level: Annotated[int, typer.Option(help="0 builds quickly, 5 searches longest.")] = 3,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Where engines are kept; ~/.cache/sem_depth by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Build even if the engine is there.")] = False,
    report: Report = None,
) -> None:
    """Compile a bundle's networks with TensorRT, so that the node starts at once."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.table import Table

    from sem_depth_node.bundle import BundleError, ModelBundle
    from sem_depth_node.engines.cache import EngineCache, cache_folder
    from sem_depth_node.engines.engine import EngineError
    from sem_depth_node.engines.tensorrt import build_or_find, choose_target, engine_key
    from sem_depth_node.engines.tensorrt_build import BuildOptions, BuildReport
    from sem_depth_node.engines.tensorrt_library import TensorRtLibrary
    from sem_depth_node.engines.watch import BuildWatch
    from sem_depth_node.shipped import default_bundle

    table = Table("input", "GPU", "seconds", "engine MiB", "peak MiB", "layers by precision", "warnings")
    reports = []
    with _exit_2_on(BundleError, EngineError, FileNotFoundError, ValueError):
        loaded = ModelBundle.load(bundle or default_bundle())
        wanted = loaded.inputs
        if size:
            wanted = tuple(loaded.input_of_size(height, width) for width, height in map(_size, size))
        compiler = TensorRtLibrary.named(library) if library else TensorRtLibrary.find()
        try:
            target = choose_target(compiler, compute_capability)
        except EngineError as error:
            if compute_capability is not None or not compiler.builds_without_gpu:
                raise
            known = ", ".join(compiler.buildable_capabilities())
            raise EngineError(
                f"{error}; to build for another machine, name its --compute-capability ({known})"
            ) from error
        options = BuildOptions(workspace, optimization_level)
        cache = EngineCache(cache_folder(cache_dir))
        for chosen in wanted:
            key = engine_key(loaded, chosen, compiler, target, options)
            if force:
                cache.discard(key)
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
            progress = Progress(*columns, console=messages, disable=not messages.is_terminal, transient=True)
            with progress:
                follow = partial(_show_phase, progress, progress.add_task("starting the builder", total=1.0))
                watch = BuildWatch(follow)
                found = cache.find(key)  # if it is damaged, whoever builds it says so
                engine = found or build_or_find(loaded, chosen, compiler, target, cache, watch, options)
            messages.print(f"{'already built' if found else 'built'}: {engine.path}")
            built = BuildReport(**engine.report)
            reports.append({**asdict(key), **engine.report, "path": str(engine.path)})
            table.add_row(
                str(chosen.profile or f"{chosen.width}x{chosen.height}"),
                f"sm{target.compute_capability} {target.gpu_name}".strip(),
                f"{built.seconds:.1f}",
                f"{built.engine_bytes / 2**20:.1f}",
                f"{built.peak_host_memory_bytes / 2**20:.0f}",
                ", ".join(f"{name} {count}" for name, count in built.layers_by_precision().items()),
                str(len(built.warnings)),
            )
    table.title = f"{loaded.manifest.name}, {compiler.name} {compiler.version}"
    Console().print(table)
    if report is not None:
        report.write_text(json.dumps(reports, indent=2) + "\n")


def _show_phase(progress: Progress, task: TaskID, phase: str, fraction: float) -> None:
    progress.update(task, description=phase, completed=fraction)


@app.command("benchmark-cameras")
def benchmark_cameras(
    rate: Annotated[list[float] | None, typer.Option(help="Hz of a camera; repeat for several. 5 at 10 Hz.")] = None,
    bundle: Bundle = None,
    engine: Engine = "auto",
    threads: Annotated[int, typer.Option(help="Threads of each CPU engine; 0 takes one per core.")] = 0,
    workers: Annotated[int, typer.Option(help="Frames in work at once in the node that serves all cameras.")] = 1,
    image_size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the images.")] = "1242x375",
    seconds: Annotated[float, typer.Option(help="To measure for, in every round.", callback=_above_zero)] = 20.0,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each arrangement.")] = 3,
    separate: Annotated[
        bool, typer.Option(help="Measure one node for each camera too, in turns with one node for all.")
    ] = True,
    shared_memory: Annotated[bool, typer.Option(help="Use the shared memory profile that ships, for images.")] = True,
    report: Report = None,
) -> None:
    """Count depth images of several cameras, from one node for all and from one node each, in turns."""
    from rich.table import Table

    from sem_depth_node.benchmark.machine import this_machine
    from sem_depth_node.child_process import ProcessError

    _use_shared_memory(shared_memory)
    parameters = [f"engine:={engine}", f"threads:={threads}", f"workers:={workers}"]
    if bundle is not None:
        parameters.append(f"bundle:={bundle.resolve()}")
    with _exit_2_on(ImportError, FileNotFoundError, ValueError):
        from sem_depth_node.ros.camera_rig import Arrangement, RigMeasurement, RigSettings, measure

        width, height = _size(image_size)
        settings = RigSettings(tuple(rate or [10.0] * 5), width, height, seconds, tuple(parameters))
    arrangements: list[Arrangement] = ["shared", "separate"] if separate else ["shared"]
    machine = this_machine()
    turns: list[RigMeasurement] = []
    with _exit_2_on(ProcessError), messages.status("") as status:
        for _ in range(rounds):
            turns += [measure(arrangement, settings, status.update) for arrangement in arrangements]
    table = Table("", *("one node for all" if a == "shared" else "one node each" for a in arrangements))
    for title, column in (
        ("depth images/s", "total_rate"),
        ("slowest camera / fastest", "fairness"),
        ("longest gap of a camera (s)", "longest_gap"),
        ("latency, median (ms)", "latency_median"),
        ("latency, p95 (ms)", "latency_p95"),
        ("memory (MiB)", "memory_mib"),
        ("processors", "processors"),
    ):
        by_arrangement = ([getattr(t, column) for t in turns if t.arrangement == a] for a in arrangements)
        table.add_row(title, *map(_median_and_range, by_arrangement))
    Console().print(table)
    sent = statistics.median(sum(turn.sent.values()) for turn in turns)
    Console(highlight=False).print(
        f"{sent:.1f} of {sum(settings.rates):g} images/s shown by {len(settings.rates)} cameras of {image_size}; "
        f"{rounds} turns of {seconds:g} s, median (lowest..highest); {machine.processor}, {machine.cores} cores, load "
        f"{min(t.load_before for t in turns):.1f}..{max(t.load_before for t in turns):.1f} before"
    )
    if report is not None:
        turned = [asdict(turn) | {"total_rate": turn.total_rate, "fairness": turn.fairness} for turn in turns]
        everything = {"machine": asdict(machine), "settings": asdict(settings), "turns": turned}
        report.write_text(json.dumps(everything, indent=2) + "\n")


def _median_and_range(values: list[float]) -> str:
    middle = statistics.median(values)
    digits = 0 if middle >= 100 else 2
    return f"{middle:.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ValueError(f"size is {text!r}, expected WIDTHxHEIGHT in pixels, such as 1242x375")
    return int(width), int(height)


def _numbers(
    text: str, option: str, kind: Callable[[str], Number], expected: str, fits: Callable[[Number], bool]
) -> list[Number]:
    try:
        numbers = [kind(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(map(fits, numbers)):
        raise ValueError(f"{option} is {text!r}, expected {expected}, with commas between")
    return numbers


@contextlib.contextmanager
def _exit_2_on(*errors: type[Exception]) -> Iterator[None]:
    """Turn errors that name their cause into one line and exit code 2."""
    try:
        yield
    except errors as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Print one line and end with exit code 2: the request cannot be met as it is."""
    messages.print(f"[bold red]error:[/] {escape(message)}")
    raise typer.Exit(2)


@contextlib.contextmanager
def _estimator(bundle: Path | None, engine: str) -> Iterator[DepthEstimator]:
    """The network of a bundle, ready to run; exit code 2 where bundle or engine cannot be had."""
    from sem_depth_node.bundle import BundleError, ModelBundle
    from sem_depth_node.engines.engine import EngineError
    from sem_depth_node.engines.select import open_engines
    from sem_depth_node.estimator import DepthEstimator
    from sem_depth_node.shipped import default_bundle

    with _exit_2_on(BundleError, EngineError, FileNotFoundError):
        loaded = ModelBundle.load(bundle or default_bundle())
        estimator = DepthEstimator(loaded, open_engines(loaded, engine))
    try:
        estimator.warm_up()
        yield estimator
    finally:
        estimator.close()


@contextlib.contextmanager
def _ros(name: str) -> Iterator[Node]:
    """A ROS 2 node of this process. Signals stay Python's, so that Ctrl-C unwinds what is open."""
    try:
        import rclpy
        from rclpy.signals import SignalHandlerOptions
    except ImportError as error:
        fail(_NO_ROS.format(error=error))
    rclpy.init(args=None, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node(name)
        try:
            yield node
        finally:
            node.destroy_node()
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
