"""Bags have what rosbag2 of Jazzy reads: metadata, type hashes, definitions, storage, and bytes that ROS deserializes.

What rosbag2 expects is written down here from its sources (metadata_io.cpp, yaml.hpp, qos.cpp, the two storage
plugins); hashes, definitions and deserialization are ROS's own, from its message packages and Fast CDR.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import kitti_samples as kitti
import numpy as np
import pytest
from mcap.reader import make_reader
from rclpy.serialization import deserialize_message
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from ruamel.yaml import YAML

from sem_depth_node.bags.kitti.convert import kitti_to_bag, open_kitti
from sem_depth_node.bags.reader import BagMessage, BagReader
from sem_depth_node.bags.writer import Storage

_UINT64 = range(2**64)
# yaml.hpp: fields of version 9 and what yaml-cpp is asked to convert them to.
BAG_FIELDS = {
    "version", "storage_identifier", "duration", "starting_time", "message_count", "topics_with_message_count",
    "compression_format", "compression_mode", "relative_file_paths", "files", "custom_data", "ros_distro",
}  # fmt: skip
TOPIC_FIELDS = {"name", "type", "serialization_format", "offered_qos_profiles", "type_description_hash"}
# rmw/qos_string_conversions.h
POLICIES = {
    "history": {"keep_last", "keep_all"},
    "reliability": {"reliable", "best_effort"},
    "durability": {"transient_local", "volatile"},
    "liveliness": {"automatic", "manual_by_topic"},
}
INFINITE = {"sec": 9223372036, "nsec": 854775807}  # RMW_DURATION_INFINITE
DURATIONS = {"deadline", "lifespan", "liveliness_lease_duration"}
QOS_FIELDS = {*POLICIES, *DURATIONS, "depth", "avoid_ros_namespace_conventions"}


@pytest.fixture(scope="module", params=["mcap", "sqlite3"])
def bag(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage: Storage = request.param
    root = tmp_path_factory.mktemp(storage)
    kitti_to_bag(open_kitti(kitti.write_raw_drive(root / "kitti")), root / "bag", storage=storage)
    return root / "bag"


def information(bag: Path) -> dict[str, Any]:
    read: dict[str, Any] = YAML(typ="safe").load((bag / "metadata.yaml").read_text())
    assert list(read) == ["rosbag2_bagfile_information"]
    return dict(read["rosbag2_bagfile_information"])


def check_qos(profiles: Any, *, latched: bool) -> None:
    (profile,) = profiles
    assert profile.keys() == QOS_FIELDS
    for policy, words in POLICIES.items():
        assert profile[policy] in words
    assert profile["durability"] == ("transient_local" if latched else "volatile")
    assert (profile["history"], type(profile["depth"])) == ("keep_last", int)
    assert all(profile[name] == INFINITE for name in DURATIONS)
    assert profile["avoid_ros_namespace_conventions"] is False


def test_metadata_has_every_field_that_rosbag2_reads_in_its_type(bag: Path) -> None:
    found = information(bag)
    with BagReader(bag) as reader:
        times = [message.time for message in reader.messages()]
        counts = {topic.name: topic.count for topic in reader.topics.values()}
    assert found.keys() == BAG_FIELDS
    assert found["version"] == 9
    assert found["message_count"] == len(times)
    assert found["starting_time"] == {"nanoseconds_since_epoch": min(times)}
    assert found["duration"] == {"nanoseconds": max(times) - min(times)}
    assert (found["compression_format"], found["compression_mode"]) == ("", "")
    assert not found["custom_data"]
    assert isinstance(found["ros_distro"], str)
    storage = {".mcap": "mcap", ".db3": "sqlite3"}
    (file,) = (path for path in bag.iterdir() if path.name != "metadata.yaml")
    assert found["storage_identifier"] == storage[file.suffix]
    assert found["relative_file_paths"] == [file.name]
    (part,) = found["files"]
    assert part == {"path": file.name, **{key: found[key] for key in ("starting_time", "duration", "message_count")}}
    assert found["message_count"] in _UINT64
    for entry in found["topics_with_message_count"]:
        topic = entry["topic_metadata"]
        assert entry.keys() == {"topic_metadata", "message_count"}
        assert entry["message_count"] == counts.pop(topic["name"])
        assert topic.keys() == TOPIC_FIELDS
        assert topic["serialization_format"] == "cdr"
        check_qos(topic["offered_qos_profiles"], latched=topic["name"] == "/tf_static")
    assert not counts


def test_type_hashes_and_definitions_are_those_of_ros(bag: Path) -> None:
    for message_type, (definition, digest) in stored_definitions(bag).items():
        if message_type == "tf2_msgs/msg/TFMessage":
            # Of all that ROS has it is the only package without a wheel. `ros2 topic info --verbose` of Jazzy says:
            expected = "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"
        else:
            package, _, name = message_type.split("/")
            described = json.loads((share(package) / "msg" / f"{name}.json").read_text())
            expected = {entry["type_name"]: entry["hash_string"] for entry in described["type_hashes"]}[message_type]
        assert digest == expected, message_type
        # The hash of the text that the bag holds, with the types it holds below it and no others.
        store = get_typestore(Stores.EMPTY)
        store.register(get_types_from_msg(definition, message_type))
        assert store.hash_rihs01(message_type) == expected, message_type


def test_ros_deserializes_every_message(bag: Path) -> None:
    compared = set()
    with BagReader(bag) as reader:
        for message in reader.messages():
            package, _, name = message.type.split("/")
            if package == "tf2_msgs":
                continue  # has no wheel
            of_ros = deserialize_message(message.data, getattr(importlib.import_module(f"{package}.msg"), name))
            check_equal(of_ros, reader.decode(message), message)
            compared.add(message.type)
    assert compared == {
        f"{package}/msg/{name}"
        for package, names in {
            "sensor_msgs": ("Image", "CameraInfo", "PointCloud2", "Imu", "NavSatFix"),
            "nav_msgs": ("Odometry",),
        }.items()
        for name in names
    }


def test_storage_is_laid_out_as_the_plugins_read_it(bag: Path) -> None:
    topics = {entry["topic_metadata"]["name"]: entry for entry in information(bag)["topics_with_message_count"]}
    if (file := bag / "bag.mcap").is_file():
        with file.open("rb") as stream:
            reader = make_reader(stream, validate_crcs=True)
            assert reader.get_header().profile == "ros2"
            summary = reader.get_summary()
            assert summary is not None
            assert summary.statistics is not None
            assert summary.chunk_indexes
            assert all(index.message_index_offsets for index in summary.chunk_indexes)
            for number, channel in summary.channels.items():
                schema = summary.schemas[channel.schema_id]
                assert (channel.message_encoding, schema.encoding) == ("cdr", "ros2msg")
                assert schema.name == topics[channel.topic]["topic_metadata"]["type"]
                assert summary.statistics.channel_message_counts[number] == topics[channel.topic]["message_count"]
                qos = YAML(typ="safe").load(channel.metadata["offered_qos_profiles"])
                check_qos(qos, latched=channel.topic == "/tf_static")
            (own,) = (record for record in reader.iter_metadata() if record.name == "rosbag2")
            assert YAML(typ="safe").load(own.metadata["serialized_metadata"]) == information(bag)
        return
    with contextlib.closing(sqlite3.connect(bag / "bag.db3")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT schema_version, ros_distro FROM schema").fetchone()[0] == 4
        # The statements that the plugin prepares.
        rows = database.execute(
            "SELECT data, timestamp, topics.name, topics.id, messages.id FROM messages "
            "JOIN topics ON messages.topic_id = topics.id WHERE timestamp >= 0 ORDER BY messages.timestamp, messages.id"
        ).fetchall()
        assert len(rows) == sum(entry["message_count"] for entry in topics.values())
        columns = "name, type, serialization_format, offered_qos_profiles, type_description_hash"
        for name, message_type, serialization, qos, digest in database.execute(f"SELECT {columns} FROM topics"):
            known = topics[name]["topic_metadata"]
            assert (message_type, serialization, digest) == (known["type"], "cdr", known["type_description_hash"])
            check_qos(YAML(typ="safe").load(qos), latched=name == "/tf_static")


def stored_definitions(bag: Path) -> dict[str, tuple[str, str]]:
    """By message type, the definition in the storage file and the hash in the metadata."""
    hashes = {
        entry["topic_metadata"]["type"]: entry["topic_metadata"]["type_description_hash"]
        for entry in information(bag)["topics_with_message_count"]
    }
    if (file := bag / "bag.mcap").is_file():
        with file.open("rb") as stream:
            summary = make_reader(stream).get_summary()
            assert summary is not None
            texts = {schema.name: schema.data.decode() for schema in summary.schemas.values()}
    else:
        with contextlib.closing(sqlite3.connect(bag / "bag.db3")) as database:
            rows = database.execute("SELECT topic_type, encoding, encoded_message_definition FROM message_definitions")
            texts = {}
            for message_type, encoding, text in rows:
                assert encoding == "ros2msg"
                texts[message_type] = text
    assert texts.keys() == hashes.keys()
    return {name: (texts[name], hashes[name]) for name in texts}


def share(package: str) -> Path:
    """Where ROS keeps what a message package is made from: wheels put it below the environment, ROS in its prefixes."""
    prefixes = [sys.prefix, *os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)]
    return next(path for prefix in prefixes if (path := Path(prefix) / "share" / package).is_dir())


def check_equal(of_ros: Any, ours: Any, message: BagMessage) -> None:
    """Compare ROS's message object with that of rosbags, field by field."""
    if hasattr(of_ros, "get_fields_and_field_types"):
        for name in of_ros.get_fields_and_field_types():
            check_equal(getattr(of_ros, name), getattr(ours, name), message)
    elif isinstance(of_ros, (list, tuple)) and of_ros and hasattr(of_ros[0], "get_fields_and_field_types"):
        for one, other in zip(of_ros, ours, strict=True):
            check_equal(one, other, message)
    elif isinstance(of_ros, (str, bool)):
        assert of_ros == ours, message.topic
    else:
        np.testing.assert_array_equal(np.asarray(of_ros), np.asarray(ours), err_msg=message.topic)
