"""Bags of every format read as the same stream of ROS 2 messages; damaged ones are refused in one clear sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bag_samples as samples
import numpy as np
import pytest

from sem_depth_node.bags.reader import BagError, BagReader
from sem_depth_node.bags.streams import find_camera, find_lidar
from sem_depth_node.cloud_decoding import xyz
from sem_depth_node.stamps import nanoseconds

FORMATS: dict[str, Callable[[Path], Path]] = {
    "mcap": lambda folder: samples.write_rosbag2(folder / "bag"),
    "mcap, chunks compressed": lambda folder: samples.write_rosbag2(folder / "bag", compression="storage"),
    "mcap, messages compressed": lambda folder: samples.write_rosbag2(folder / "bag", compression="message"),
    "mcap, file compressed": lambda folder: samples.write_rosbag2(folder / "bag", compression="file"),
    "bare mcap": lambda folder: samples.write_rosbag2(folder / "bag") / "bag.mcap",
    "mcap, no chunks": lambda folder: samples.write_unchunked_mcap(folder / "drive.mcap"),
    "sqlite3": lambda folder: samples.write_rosbag2(folder / "bag", "sqlite3"),
    "sqlite3, messages compressed": lambda folder: samples.write_rosbag2(folder / "bag", "sqlite3", "message"),
    "sqlite3, file compressed": lambda folder: samples.write_rosbag2(folder / "bag", "sqlite3", "file"),
    "rosbag1": lambda folder: samples.write_rosbag1(folder / "drive.bag"),
    "rosbag1, lz4": lambda folder: samples.write_rosbag1(folder / "drive.bag", lz4=True),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_the_same(name: str, tmp_path: Path) -> None:
    with BagReader(FORMATS[name](tmp_path)) as bag:
        assert {topic.name: (topic.type, topic.count) for topic in bag.topics.values()} == {
            samples.IMAGE: ("sensor_msgs/msg/Image", samples.FRAMES),
            samples.INFO: ("sensor_msgs/msg/CameraInfo", samples.FRAMES),
            samples.LIDAR: ("sensor_msgs/msg/PointCloud2", samples.FRAMES),
            samples.TF_STATIC: ("tf2_msgs/msg/TFMessage", 1),
        }
        expected = list(samples.recorded())
        found = list(bag.messages())
        assert sorted((m.topic, m.time) for m in found) == sorted((topic, time) for topic, time, _ in expected)
        assert [m.time for m in found] == sorted(m.time for m in found)
        assert bag.start == expected[0][1]
        assert bag.end == expected[-1][1]

        images = [bag.decode(m) for m in bag.messages([samples.IMAGE])]
        assert [nanoseconds(i.header.stamp) for i in images] == [
            samples.BEGIN + n * samples.PERIOD for n in range(samples.FRAMES)
        ]
        np.testing.assert_array_equal(images[3].data.reshape(32, 96, 3), samples.picture(3))
        np.testing.assert_array_equal(bag.first(samples.INFO).k.reshape(3, 3), samples.CAMERA.K)
        np.testing.assert_array_equal(xyz(bag.first(samples.LIDAR)), samples.wall_points()[:, :3])
        assert bag.first(samples.TF_STATIC).transforms[0].child_frame_id == "lidar"


@pytest.mark.parametrize("name", FORMATS)
def test_iterations_may_overlap(name: str, tmp_path: Path) -> None:
    with BagReader(FORMATS[name](tmp_path)) as bag:
        expected = [m.time for m in bag.messages([samples.IMAGE])]
        found = []
        for message in bag.messages([samples.IMAGE]):
            found.append(message.time)
            assert bag.first(samples.TF_STATIC).transforms
            assert next(bag.messages([samples.LIDAR], samples.BEGIN)).topic == samples.LIDAR
            assert len(found) <= samples.FRAMES
        assert found == expected


def test_messages_of_a_time_span(tmp_path: Path) -> None:
    with BagReader(samples.write_rosbag2(tmp_path / "bag")) as bag:
        begin = samples.BEGIN + samples.PERIOD
        span = list(bag.messages([samples.INFO], begin, begin + 2 * samples.PERIOD))
    assert [m.time - samples.BEGIN - 1_000_000 for m in span] == [samples.PERIOD, 2 * samples.PERIOD]


def test_missing_bag(tmp_path: Path) -> None:
    _refused(tmp_path / "nowhere.mcap", "nowhere.mcap: no such bag")


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "drive.mp4").write_bytes(b"not a bag")
    _refused(tmp_path / "drive.mp4", "drive.mp4: unknown kind of file, expected")


def test_folder_that_is_no_bag(tmp_path: Path) -> None:
    _refused(tmp_path, "not a bag")


def test_folder_without_metadata_names_the_file_to_open(tmp_path: Path) -> None:
    bag = samples.write_rosbag2(tmp_path / "bag")
    (bag / "metadata.yaml").unlink()
    _refused(bag, r"no metadata.yaml.*bag\.mcap")
    with BagReader(bag / "bag.mcap") as reader:
        assert samples.IMAGE in reader.topics


def test_truncated_mcap_says_what_can_be_saved(tmp_path: Path) -> None:
    # Chunks are closed at 1 MiB, so a cut file needs to be longer than that to have any left.
    bag = samples.write_rosbag2(tmp_path / "bag")
    file = bag / "bag.mcap"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - 100])
    _refused(bag, r"bag\.mcap: truncated, it ends without an mcap footer.*/camera/image \(5\).*mcap recover")
    file.write_bytes(whole[: len(whole) // 2])
    _refused(bag, r"bag\.mcap: truncated.*no message of it can be read")
    file.write_bytes(b"")
    _refused(bag, r"bag\.mcap: empty file")


@pytest.mark.parametrize("name", ["sqlite3", "rosbag1", "sqlite3, file compressed", "mcap, file compressed"])
def test_other_truncated_bags_are_refused(name: str, tmp_path: Path) -> None:
    bag = FORMATS[name](tmp_path)
    file = bag if bag.is_file() else next(f for f in bag.iterdir() if f.name != "metadata.yaml")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BagError, match=rf"{bag.name}.*(cannot be read|damaged)"), BagReader(bag) as reader:
        list(reader.messages())


def test_damage_inside_says_where(tmp_path: Path) -> None:
    bag = samples.write_rosbag2(tmp_path / "bag", "sqlite3", "message")
    file = bag / "bag.db3"
    data = bytearray(file.read_bytes())
    magic = b"\x28\xb5\x2f\xfd"  # every message is a zstd frame; spoil the magic number of some
    places = [at for at in range(len(data)) if data[at : at + 4] == magic]
    for place in places[len(places) // 2 :]:
        data[place : place + 4] = b"oops"
    file.write_bytes(data)
    with pytest.raises(BagError, match=r"bag: damaged .*"), BagReader(bag) as reader:
        list(reader.messages())


def test_unknown_topic_lists_those_there_are(tmp_path: Path) -> None:
    with (
        BagReader(samples.write_rosbag2(tmp_path / "bag")) as bag,
        pytest.raises(BagError, match=r"no topic /left; it has .*/camera/image \(sensor_msgs/msg/Image, 5\)"),
    ):
        list(bag.messages(["/left"]))


@pytest.mark.parametrize("compressed", [False, True])
def test_camera_and_lidar_are_found(compressed: bool, tmp_path: Path) -> None:
    with BagReader(samples.write_rosbag2(tmp_path / "bag", compressed=compressed)) as bag:
        camera = find_camera(bag)
        assert camera.image == (samples.COMPRESSED if compressed else samples.IMAGE)
        assert camera.camera_info == samples.INFO
        assert camera.compressed is compressed
        assert find_lidar(bag) == samples.LIDAR


def test_bag_without_a_camera(tmp_path: Path) -> None:
    from sem_depth_node.bags.writer import BagWriter

    with BagWriter(tmp_path / "bag") as writer:
        for topic, time, message in samples.recorded():
            if topic == samples.LIDAR:
                writer.write(topic, time, message)
    with (
        BagReader(tmp_path / "bag") as bag,
        pytest.raises(BagError, match=r"no camera image topic .*it has /lidar/points"),
    ):
        find_camera(bag)


def test_clouds_made_from_depth_are_no_lidar_and_organised_lidars_are(tmp_path: Path) -> None:
    from sem_depth_node.bags import messages
    from sem_depth_node.bags.writer import BagWriter

    def bag(name: str, *, lidar: bool) -> Path:
        with BagWriter(tmp_path / name) as writer:
            for topic, time, message in samples.recorded():
                if topic == samples.LIDAR:
                    message.height, message.width = 2, message.width // 2
                    message.row_step = message.width * message.point_step
                    writer.write("/depth/points", time, message)
                if topic != samples.LIDAR or lidar:
                    writer.write(topic, time, message)
                if topic == samples.IMAGE:
                    writer.write(
                        "/depth/image", time, messages.image(message.header, np.ones((32, 96), np.float32), "32FC1")
                    )
        return tmp_path / name

    with BagReader(bag("both", lidar=True)) as both:
        assert find_lidar(both) == samples.LIDAR
        assert find_camera(both).image == samples.IMAGE
    with BagReader(bag("depth alone", lidar=False)) as alone:
        assert find_lidar(alone) is None


def test_a_camera_whose_depth_is_in_the_same_folder_is_found(tmp_path: Path) -> None:
    from sem_depth_node.bags import messages
    from sem_depth_node.bags.writer import BagWriter

    with BagWriter(tmp_path / "bag") as writer:
        for topic, time, message in samples.recorded():
            writer.write(topic, time, message)
            if topic == samples.IMAGE:
                depth = messages.image(message.header, np.ones((32, 96), np.float32), "32FC1")
                writer.write("/camera/depth_image", time, depth)
    with BagReader(tmp_path / "bag") as bag:
        assert find_camera(bag).image == samples.IMAGE


def test_named_topic_of_another_type(tmp_path: Path) -> None:
    with (
        BagReader(samples.write_rosbag2(tmp_path / "bag")) as bag,
        pytest.raises(BagError, match="topic /lidar/points is a sensor_msgs/msg/PointCloud2, expected"),
    ):
        find_camera(bag, image=samples.LIDAR)


def _refused(path: Path, match: str) -> None:
    with pytest.raises(BagError, match=match), BagReader(path):
        pass
