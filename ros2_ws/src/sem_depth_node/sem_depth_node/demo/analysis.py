"""What the recording of a demo shows: frames, latencies, the node's overhead, accuracy."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sem_depth_node.bags.evaluate import LidarDepth, Protocol, Scores, recorded_predictions, score
from sem_depth_node.bags.latency import Distribution, arrivals, node_timing
from sem_depth_node.bags.reader import BagError, BagReader
from sem_depth_node.bags.streams import CameraStream, find_lidar


@dataclass(frozen=True)
class DemoReport:
    """The demo's numbers.

    Attributes:
        bag, camera, lidar: what was played: path and topics; lidar is None where depth was not scored.
        image_size: width and height in pixels.
        bundle, engine: what ran, as the node's diagnostics name it.
        published: images that the replay published.
        received: images that reached the node.
        answered: depth images that were recorded.
        seconds: from the first image to the last.
        latency: image received to depth received, by the recorder, ms.
        node: image received to last output sent, inside the node, ms.
        engine_time: inside the engine, ms.
        overhead: of the node beside the engine: decoding, resizing, validity, building and sending messages, ms.
        scores: against the LiDAR, None where depth could not be scored.
        unscored: why not, in words.
    """

    bag: str
    camera: str
    lidar: str | None
    image_size: tuple[int, int]
    bundle: str
    engine: str
    published: int
    received: int
    answered: int
    seconds: float
    latency: Distribution
    node: Distribution
    engine_time: Distribution
    overhead: Distribution
    scores: Scores | None
    unscored: str = ""

    @property
    def dropped(self) -> int:
        """Images without an answer: replaced by a newer one while the engine was busy, or lost on the way."""
        return self.published - self.answered

    def as_report(self) -> dict[str, Any]:
        """All of it for JSON; times in milliseconds."""
        fields = {name: value for name, value in asdict(self).items() if name != "scores"}
        rate = (self.answered - 1) / self.seconds if self.seconds > 0 else None
        return {
            **fields,
            "dropped": self.dropped,
            "output_rate_hz": rate,
            "accuracy": None if self.scores is None else self.scores.as_report(),
        }


def analyse(
    source: BagReader, recording: BagReader, stream: CameraStream, lidar: str | None, replayed: Path
) -> DemoReport:
    """Read a recording of the demo.

    Args:
        source: the bag that was replayed.
        recording: what was recorded.
        stream: the camera.
        lidar: topic of its LiDAR in `source`; None to find it.
        replayed: the replay's report.

    Raises:
        BagError: nothing was answered.
    """
    arrived = arrivals(recording, stream.image)
    answered = arrivals(recording, "/depth/image")
    if not answered:
        raise BagError(f"{recording.path}: no depth image for any of {len(arrived)} images; see the logs beside it")
    timing = node_timing(recording, "/depth/timing")
    if timing is None:
        raise BagError(f"{recording.path}: nothing on /depth/timing; see the logs beside it")
    found: str | None = None
    scores: Scores | None = None
    unscored = "the bag has no LiDAR to compare with"
    try:
        if (found := find_lidar(source, lidar)) is not None:
            predictions = recorded_predictions(recording, "/depth/image", "/depth/camera_info")
            scores = score(predictions, LidarDepth(source, found), Protocol())
            unscored = "" if scores.frames else scores.left_out(found)
    except BagError as error:  # the drive was played all the same
        unscored = str(error)
    diagnostics = _last_diagnostics(recording)
    info = recording.first(stream.camera_info)
    stamps = sorted(arrived)
    return DemoReport(
        bag=str(source.path),
        camera=stream.image,
        lidar=None if unscored else found,
        image_size=(info.width, info.height),
        bundle=diagnostics.get("bundle", ""),
        engine=diagnostics.get("engine 0", ""),
        published=json.loads(replayed.read_text())["published"][stream.image],
        received=int(diagnostics.get("frames received", len(arrived))),
        answered=len(answered),
        seconds=(stamps[-1] - stamps[0]) / 1e9,
        latency=Distribution.of([(answered[stamp] - arrived[stamp]) / 1e6 for stamp in answered if stamp in arrived]),
        node=timing.latency,
        engine_time=timing.engine,
        overhead=timing.overhead,
        scores=None if unscored else scores,
        unscored=unscored,
    )


def _last_diagnostics(bag: BagReader) -> dict[str, str]:
    """The last key-values of the node on /diagnostics."""
    values: dict[str, str] = {}
    for message in bag.messages(["/diagnostics"]):
        for status in bag.decode(message).status:
            values.update({pair.key: pair.value for pair in status.values})
    return values
