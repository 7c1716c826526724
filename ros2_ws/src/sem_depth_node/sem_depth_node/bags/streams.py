"""Which topics of a bag are a camera, and which carry a LiDAR's points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sem_depth_node.bags.reader import BagError, BagReader
from sem_depth_node.stamps import nanoseconds

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
POINT_CLOUD = "sensor_msgs/msg/PointCloud2"

# Image encodings that hold depth, disparity, confidence or labels, not a picture.
_NOT_A_PICTURE = ("32F", "64F", "16U", "16S", "32S")


@dataclass(frozen=True)
class CameraStream:
    """The topics of one camera: `image` (CompressedImage where `compressed`) and its `camera_info`."""

    image: str
    camera_info: str
    compressed: bool


def find_camera(bag: BagReader, image: str | None = None, camera_info: str | None = None) -> CameraStream:
    """The camera to use: the topics named, or the only camera that the bag has.

    A camera's camera_info is looked for where image_transport puts it: beside the image topic. Where a camera was
    recorded both raw and compressed, the raw images are taken.

    Args:
        bag: open.
        image: image topic; None to find it.
        camera_info: its camera_info topic; None to find it.

    Raises:
        BagError: there is none, there are several, or the topics named are not what they should be.
    """
    if camera_info is not None:
        expect_type(bag, camera_info, (CAMERA_INFO,))
    if image is not None:
        expect_type(bag, image, (IMAGE, COMPRESSED_IMAGE))
        return _stream(bag, image, camera_info)
    images = _pictures(bag)
    if not images:
        raise BagError(f"{bag.path}: no camera image topic ({IMAGE} or {COMPRESSED_IMAGE}); {bag.listing()}")
    # Pictures without calibration are passed over only where there are others.
    cameras = [topic for topic in images if camera_info or _sibling_info(bag, topic)] or images
    if len(cameras) > 1:
        raise BagError(f"{bag.path}: {len(cameras)} cameras ({', '.join(cameras)}); name one with --image-topic")
    return _stream(bag, cameras[0], camera_info)


def find_lidar(bag: BagReader, topic: str | None = None) -> str | None:
    """The topic of LiDAR points: the one named, the only PointCloud2 topic in the bag, or None where there is none.

    Clouds beside a depth image are made from it and no LiDAR's. Of several others those with several rows are passed
    over, as far as one without is left.

    Raises:
        BagError: there are several, or the topic named is not one.
    """
    if topic is not None:
        expect_type(bag, topic, (POINT_CLOUD,))
        return topic
    made = {_folder(name) for name in _measures(bag)}
    clouds = [name for name, found in bag.topics.items() if found.type == POINT_CLOUD and found.count]
    clouds = [name for name in clouds if _folder(name) not in made]
    if len(clouds) > 1:
        clouds = [name for name in clouds if bag.first(name).height == 1] or clouds
    if len(clouds) > 1:
        names = ", ".join(clouds)
        raise BagError(f"{bag.path}: {len(clouds)} point cloud topics ({names}); name one with --lidar-topic")
    return clouds[0] if clouds else None


def unstamped(bag: BagReader, topics: Iterable[str]) -> list[str]:
    """Those of `topics` whose first message has a stamp of zero, which means none."""
    return [topic for topic in topics if not nanoseconds(bag.first(topic).header.stamp)]


def _pictures(bag: BagReader) -> list[str]:
    measures = _measures(bag)
    pictures = [t.name for t in bag.topics.values() if t.type == IMAGE and t.count and t.name not in measures]
    # A picture beside a depth image is made from it (a preview), not seen by a camera.
    derived = {_folder(name) for name in measures}
    raw = [name for name in pictures if _folder(name) not in derived]
    compressed = [t.name for t in bag.topics.values() if t.type == COMPRESSED_IMAGE and t.count]
    compressed = [n for n in compressed if _base(n) not in raw and "compressedDepth" not in bag.first(n).format]
    # Some RGB-D cameras have all their topics in one folder: of a bag without other pictures it is seen.
    return raw + compressed or [name for name in pictures if not name.endswith("/preview")]


def _measures(bag: BagReader) -> set[str]:
    """Image topics that hold depth, disparity, confidence or labels."""
    images = [t.name for t in bag.topics.values() if t.type == IMAGE and t.count]
    return {name for name in images if bag.first(name).encoding.startswith(_NOT_A_PICTURE)}


def _folder(topic: str) -> str:
    return topic.rpartition("/")[0]


def _base(topic: str) -> str:
    """The raw image topic that a compressed topic belongs to."""
    return topic.removesuffix("/compressed")


def _sibling_info(bag: BagReader, image: str) -> str | None:
    beside = f"{_folder(_base(image))}/camera_info"
    return beside if beside in bag.topics and bag.topics[beside].type == CAMERA_INFO else None


def _stream(bag: BagReader, image: str, camera_info: str | None) -> CameraStream:
    compressed = bag.topics[image].type == COMPRESSED_IMAGE
    if info := camera_info or _sibling_info(bag, image):
        return CameraStream(image, info, compressed)
    raise BagError(
        f"{bag.path}: no {CAMERA_INFO} beside {image}; name its topic with --camera-info-topic; {bag.listing()}"
    )


def expect_type(bag: BagReader, topic: str, types: tuple[str, ...]) -> None:
    """Raise BagError unless the bag has messages of one of these types on the topic."""
    if topic not in bag.topics:
        raise BagError(f"{bag.path}: no topic {topic}; {bag.listing()}")
    if (found := bag.topics[topic].type) not in types:
        raise BagError(f"{bag.path}: topic {topic} is a {found}, expected {' or '.join(types)}")
    if not bag.topics[topic].count:
        raise BagError(f"{bag.path}: topic {topic} has no messages")
