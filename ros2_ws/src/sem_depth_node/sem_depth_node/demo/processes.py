"""Node, replay and recorder as processes of their own, talking over DDS alone."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sem_depth_node.bags.reader import BagReader
from sem_depth_node.bags.streams import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, CameraStream
from sem_depth_node.bags.writer import copy_compressed
from sem_depth_node.child_process import ChildProcess, ProcessError
from sem_depth_node.shipped import shipped_folder

OUTPUTS = ("image", "camera_info", "confidence", "points", "preview", "timing")

# An engine may have to be compiled before the node's outputs appear.
_NODE_STARTS = 900.0
_RECORDING_STARTS = 60.0
# Time for the frame in work when the replay ends.
_LAST_FRAME = 4.0


@dataclass(frozen=True)
class DemoSettings:
    """What the demo plays.

    Attributes:
        bag: to replay.
        stream: the camera in it.
        out: folder for recording and logs.
        bundle: model bundle; None takes the shipped one.
        engine: as the node's parameter.
        rate, start, duration: as of the replay.
        parameters: more of the node's parameters, as "name:=value".
    """

    bag: Path
    stream: CameraStream
    out: Path
    bundle: Path | None = None
    engine: str = "auto"
    rate: float = 1.0
    start: float = 0.0
    duration: float | None = None
    parameters: Sequence[str] = ()

    @property
    def recording(self) -> Path:
        """The rosbag2 folder that the outputs are recorded into."""
        return self.out / "recording"

    @property
    def uncompressed(self) -> Path:
        """The same while it is being recorded: compressing would take time from the node that is measured."""
        return self.out / "recording.raw"

    @property
    def replay_report(self) -> Path:
        """JSON of what was published."""
        return self.out / "replay.json"


def play_and_record(settings: DemoSettings, say: Callable[[str], None]) -> None:
    """Replay the bag's camera through a node and record what both publish.

    Args:
        settings: what to play.
        say: told of each phase.

    Raises:
        ProcessError: a process ended early or did not get ready.
    """
    environment = _environment()
    image_type = COMPRESSED_IMAGE if settings.stream.compressed else IMAGE
    inputs = (f"{settings.stream.image}={image_type}", f"{settings.stream.camera_info}={CAMERA_INFO}")
    with contextlib.ExitStack() as stack:

        def start(name: str, *command: str, fails_with: str | None = None) -> ChildProcess:
            log = settings.out / "logs" / f"{name}.log"
            return stack.enter_context(ChildProcess(name, command, log, environment, fails_with))

        say("starting the node")
        node_command = (sys.executable, "-m", "sem_depth_node.ros.node", *_node_arguments(settings))
        # It stays alive where it cannot configure, for another try with other parameters.
        node = start("node", *node_command, fails_with="cannot configure: ")
        recorder = start(
            "record",
            *_cli("record", *inputs, *(f"/depth/{name}" for name in OUTPUTS), "/diagnostics"),
            *("--out", str(settings.uncompressed), "--force"),
            *("--wait-timeout", str(_NODE_STARTS)),
        )
        recorder.wait_for_line("recording", _NODE_STARTS, alive=(node,))
        say(f"replaying {settings.bag}")
        replay = start("replay", *_replay_command(settings))
        replay.wait(alive=(node, recorder))
        say("recording the last frame")
        time.sleep(_LAST_FRAME)
        node.check_alive()
        recorder.check_alive()
        recorder.interrupt()
        node.interrupt()
    say("compressing the recording")
    with BagReader(settings.uncompressed) as recorded:
        copy_compressed(recorded, settings.recording, force=True)
    shutil.rmtree(settings.uncompressed)


def _node_arguments(settings: DemoSettings) -> list[str]:
    parameters = [f"compressed:={str(settings.stream.compressed).lower()}", f"engine:={settings.engine}"]
    if settings.bundle is not None:
        parameters.append(f"bundle:={settings.bundle}")
    parameters += settings.parameters
    remappings = [f"image:={settings.stream.image}", f"camera_info:={settings.stream.camera_info}"]
    return [
        "--ros-args",
        *(word for parameter in parameters for word in ("-p", parameter)),
        *(word for remapping in remappings for word in ("-r", remapping)),
    ]


def _replay_command(settings: DemoSettings) -> list[str]:
    # Node and recorder each subscribe to both topics.
    subscriptions = 4
    command = _cli("replay", str(settings.bag), "--topics", settings.stream.image)
    command += ["--topics", settings.stream.camera_info, "--rate", str(settings.rate), "--start", str(settings.start)]
    if settings.duration is not None:
        command += ["--duration", str(settings.duration)]
    # A camera's best effort would cost frames that nobody measures here: whatever is lost shall be the node's doing.
    command += ["--reliability", "reliable", "--wait-for", str(subscriptions), "--wait-timeout", str(_RECORDING_STARTS)]
    return [*command, "--report", str(settings.replay_report)]


def _cli(command: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "sem_depth_node.cli", command, *arguments]


def _environment() -> dict[str, str]:
    """Of all processes: a DDS domain of their own on this machine, shared memory for large messages."""
    environment = {**os.environ, "ROS_DOMAIN_ID": str(_free_domain()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    environment.setdefault("PYTHONUNBUFFERED", "1")
    with contextlib.suppress(FileNotFoundError):
        for profile in sorted(shipped_folder("config").glob("fastdds*.xml")):
            environment.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(profile))
            environment.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(profile))
    return environment


def _free_domain() -> int:
    """A ROS domain whose discovery port nobody listens on."""
    for domain in random.sample(range(1, 101), 100):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7400 + 250 * domain))  # DDSI-RTPS 9.6.1.1, multicast discovery
            except OSError:
                continue
        return domain
    raise ProcessError("no ROS_DOMAIN_ID from 1 to 100 is free on this machine")
