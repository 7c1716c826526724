"""Reading rosbag1 and rosbag2 recordings as one stream of ROS 2 (CDR) messages."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from mcap.exceptions import McapError
from mcap.records import Channel, Message
from mcap.stream_reader import StreamReader
from rosbags.convert.converter import STATIC_MSGTYPE_RENAMES, is_same_wireformat, migrate_bytes
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection, ConnectionExtRosbag1, ConnectionExtRosbag2, Qos
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

_MCAP_MAGIC = b"\x89MCAP0\r\n"
_STORAGE_SUFFIXES = (".mcap", ".db3")


class BagError(Exception):
    """A bag that cannot be used; the message names the file, what was found and what was expected."""


class BagMessage(NamedTuple):
    """One recorded message: `time` is the recording time in nanoseconds since the epoch, `data` its CDR bytes."""

    topic: str
    type: str
    time: int
    data: bytes


@dataclass(frozen=True)
class BagTopic:
    """One recorded topic.

    Attributes:
        name: of the topic.
        type: ROS 2 message type, as "sensor_msgs/msg/Image".
        count: recorded messages.
        qos: what its publishers offered, as far as the bag tells.
        latched: rosbag1's word for transient local.
    """

    name: str
    type: str
    count: int
    qos: tuple[Qos, ...] = ()
    latched: bool = False


class BagReader:
    """A rosbag1 file, a rosbag2 folder, or a bare .mcap or .db3 file, open for reading.

    Messages of every format come out as ROS 2 CDR, definitions that changed between ROS 1 and 2 are migrated.
    Use as a context manager.

    Args:
        path: of the bag.

    Attributes:
        path: as given.
        topics: every topic by its name, in alphabetical order.

    Raises:
        BagError: on entering, when the bag is missing, truncated or of an unknown format.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.topics: Mapping[str, BagTopic] = {}
        self._typestore: Typestore = get_typestore(Stores.ROS2_JAZZY)
        self._to_cdr: dict[str, Callable[[bytes], bytes | memoryview]] = {}
        self._reader: AnyReader
        # Each is read by one iteration at a time: rosbags keeps one place in an mcap without chunks.
        self._readers: list[AnyReader] = []
        self._idle: list[AnyReader] = []

    def __enter__(self) -> BagReader:
        try:
            _check_openable(self.path)
        except OSError as error:
            raise BagError(f"{self.path}: cannot be read: {error}") from error
        self._reader = self._open()
        self._idle.append(self._reader)
        self.topics = {topic.name: topic for topic in map(_topic, _by_topic(self._reader.connections))}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reader in self._readers:
            reader.close()
        self._readers, self._idle = [], []

    @property
    def start(self) -> int:
        """Recording time of the first message, nanoseconds."""
        return int(self._reader.start_time)

    @property
    def end(self) -> int:
        """Recording time of the last message, nanoseconds."""
        # rosbags counts to one past the last message of a rosbag2, so that its span is half open.
        return int(self._reader.end_time) - 1 if self._reader.message_count else self.start

    def messages(
        self, topics: Collection[str] | None = None, start: int | None = None, stop: int | None = None
    ) -> Iterator[BagMessage]:
        """Messages in order of recording. Iterations may overlap.

        Args:
            topics: names to choose; None for all.
            start, stop: recording times in nanoseconds; `stop` is not included.

        Raises:
            BagError: a chosen topic is not in the bag, or the file is damaged.
        """
        if topics is not None and (unknown := sorted(set(topics) - set(self.topics))):
            raise BagError(f"{self.path}: no topic {', '.join(unknown)}; {self.listing()}")
        reader = self._idle.pop() if self._idle else self._open()
        try:
            connections = [found for found in reader.connections if topics is None or found.topic in topics]
            # rosbags takes no connection for all of them.
            messages = iter(reader.messages(connections, start, stop) if connections else ())
            last = None
            while True:
                try:
                    connection, time, data = next(messages)
                    cdr = self._converter(connection.msgtype)(data)
                except StopIteration:
                    return
                except Exception as error:
                    after = (
                        "at the first message" if last is None else f"{(last - self.start) / 1e9:.3f} s into the bag"
                    )
                    raise BagError(f"{self.path}: damaged {after}: {_reason(error)}") from error
                last = time
                yield BagMessage(connection.topic, _ros2_type(connection.msgtype), time, bytes(cdr))
        finally:
            self._idle.append(reader)

    def decode(self, message: BagMessage) -> Any:
        """The message as an object with ROS 2 field names; arrays of numbers are NumPy arrays.

        Raises:
            BagError: the bytes are not a message of that type.
        """
        self._check_defined(message.type)
        try:
            return self._typestore.deserialize_cdr(message.data, message.type)
        except Exception as error:
            raise BagError(f"{self.path}: topic {message.topic}: not a {message.type}: {_reason(error)}") from error

    def first(self, topic: str) -> Any:
        """The first message of `topic`, decoded.

        Raises:
            BagError: there is none.
        """
        message = next(self.messages([topic]), None)
        if message is None:
            raise BagError(f"{self.path}: topic {topic} has no messages")
        return self.decode(message)

    def defines(self, message_type: str) -> bool:
        """Whether the definition of a message type is known: from the bag or from ROS 2's common interfaces.

        rosbag2 of Humble and older stored none in sqlite3 bags.
        """
        if message_type not in self._typestore.fielddefs:
            theirs = self._reader.typestore.fielddefs
            self._typestore.register({n: fields for n, fields in theirs.items() if n not in self._typestore.fielddefs})
        return message_type in self._typestore.fielddefs

    def definition(self, message_type: str) -> tuple[str, str]:
        """Text and type hash (RIHS01) of a message type's ROS 2 definition, as a rosbag2 stores them.

        Raises:
            BagError: it is not known.
        """
        self._check_defined(message_type)
        return self._typestore.generate_msgdef(message_type, ros_version=2)[0], self._typestore.hash_rihs01(
            message_type
        )

    def listing(self) -> str:
        """The topics in words, for error messages."""
        if not self.topics:
            return "it has no topics"
        return "it has " + ", ".join(f"{t.name} ({t.type}, {t.count})" for t in self.topics.values())

    def _open(self) -> AnyReader:
        try:
            reader = AnyReader([self.path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
            reader.open()
        except Exception as error:  # rosbags passes on whatever its parsers meet in a damaged file
            raise BagError(f"{self.path}: cannot be read as a rosbag: {_reason(error)}") from error
        self._readers.append(reader)
        return reader

    def _check_defined(self, message_type: str) -> None:
        if not self.defines(message_type):
            raise BagError(f"{self.path}: message type {message_type} is not defined in the bag")

    def _converter(self, source_type: str) -> Callable[[bytes], bytes | memoryview]:
        if source_type not in self._to_cdr:
            self._to_cdr[source_type] = self._make_converter(source_type)
        return self._to_cdr[source_type]

    def _make_converter(self, source_type: str) -> Callable[[bytes], bytes | memoryview]:
        target_type = _ros2_type(source_type)
        source = self._reader.typestore
        if self._reader.is2 and source_type not in source.fielddefs:
            return bytes  # no definition, but CDR already: it can be passed on
        self._check_defined(target_type)
        if is_same_wireformat(source, self._typestore, source_type, target_type):
            return bytes if self._reader.is2 else partial(self._typestore.ros1_to_cdr, typename=target_type)
        return partial(
            _migrate,
            source=source,
            target=self._typestore,
            source_type=source_type,
            target_type=target_type,
            is2=self._reader.is2,
            cache={},
        )


def _migrate(
    data: bytes,
    *,
    source: Typestore,
    target: Typestore,
    source_type: str,
    target_type: str,
    is2: bool,
    cache: dict[str, object],
) -> memoryview:
    return migrate_bytes(source, target, source_type, target_type, cache, data, src_is2=is2, dst_is2=True)


def _ros2_type(message_type: str) -> str:
    return STATIC_MSGTYPE_RENAMES.get(message_type, message_type)


def _by_topic(connections: list[Connection]) -> Iterator[list[Connection]]:
    for name in sorted({connection.topic for connection in connections}):
        yield [connection for connection in connections if connection.topic == name]


def _topic(connections: list[Connection]) -> BagTopic:
    first = connections[0]
    extensions = [connection.ext for connection in connections]
    return BagTopic(
        name=first.topic,
        type=_ros2_type(first.msgtype),
        count=sum(connection.msgcount for connection in connections),
        qos=tuple(q for ext in extensions if isinstance(ext, ConnectionExtRosbag2) for q in ext.offered_qos_profiles),
        latched=any(isinstance(ext, ConnectionExtRosbag1) and bool(ext.latching) for ext in extensions),
    )


def _reason(error: BaseException) -> str:
    words = " ".join(str(argument) for argument in error.args).split()  # in one line, whatever the parser wrote
    return " ".join(words).rstrip(".") or type(error).__name__


def _check_openable(path: Path) -> None:
    """Raise a BagError that says what to do for the faults that are common and can be told apart."""
    if not path.exists():
        raise BagError(f"{path}: no such bag")
    if path.is_dir():
        storage = sorted(file for file in path.iterdir() if file.suffix in _STORAGE_SUFFIXES)
        if not (path / "metadata.yaml").is_file():
            if storage:
                raise BagError(
                    f"{path}: no metadata.yaml, as after a recording that was cut off; give the file {storage[0]} "
                    f"itself, or run `ros2 bag reindex {path}`"
                )
            raise BagError(
                f"{path}: not a bag: a rosbag2 folder has a metadata.yaml, this has none and no storage file"
            )
    elif path.suffix in (".bag", *_STORAGE_SUFFIXES):
        storage = [path]
    else:
        raise BagError(f"{path}: unknown kind of file, expected a .bag, .mcap or .db3 file or a rosbag2 folder")
    for file in storage:
        if file.suffix == ".mcap":
            _check_mcap_is_whole(file)


def _check_mcap_is_whole(file: Path) -> None:
    with file.open("rb") as stream:
        head = stream.read(len(_MCAP_MAGIC))
        size = stream.seek(0, 2)
        stream.seek(max(0, size - len(_MCAP_MAGIC)))
        tail = stream.read()
    if size == 0:
        raise BagError(f"{file}: empty file")
    if head != _MCAP_MAGIC:
        raise BagError(f"{file}: not an mcap file (it starts with {head!r})")
    if tail != _MCAP_MAGIC or size < 2 * len(_MCAP_MAGIC):
        raise BagError(f"{file}: truncated, it ends without an mcap footer ({size} bytes); {_readable_part(file)}")


def _readable_part(file: Path) -> str:
    """What a scan from the start of a truncated mcap file can still find, in words."""
    counts: dict[str, int] = {}
    channels: dict[int, str] = {}
    try:
        with file.open("rb") as stream:
            for record in StreamReader(stream).records:
                if isinstance(record, Channel):
                    channels[record.id] = record.topic
                elif isinstance(record, Message):
                    topic = channels[record.channel_id]
                    counts[topic] = counts.get(topic, 0) + 1
    except (McapError, EOFError, ValueError, OSError, KeyError, struct.error):
        pass  # where the scan stops is where the file ends
    if not counts:
        return "no message of it can be read"
    topics = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
    return (
        f"{sum(counts.values())} messages before the cut can be read ({topics}): "
        f"`mcap recover {file.name} -o whole.mcap` saves them"
    )
