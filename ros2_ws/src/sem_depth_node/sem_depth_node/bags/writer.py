"""Writing rosbag2 recordings that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from sem_depth_node.bags.reader import BagError, BagReader

Storage = Literal["mcap", "sqlite3"]

_LOCK = "in_use"

_INFINITE = QosTime(9223372036, 854775807)


def _qos(depth: int, durability: QosDurability) -> Qos:
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability.RELIABLE,
        durability,
        _INFINITE,
        _INFINITE,
        QosLiveliness.AUTOMATIC,
        _INFINITE,
        avoid_ros_namespace_conventions=False,
    )


RELIABLE_QOS = _qos(10, QosDurability.VOLATILE)
LATCHED_QOS = _qos(1, QosDurability.TRANSIENT_LOCAL)

# The message classes and the serialization that every bag of this package is written with.
TYPESTORE = get_typestore(Stores.ROS2_JAZZY)


class BagWriter:
    """A rosbag2 folder being written, as `ros2 bag` of Jazzy reads it (metadata version 9).

    Written beside its destination, in a hidden folder, and moved there when the context ends without an exception;
    otherwise nothing stays. Only a process that is killed leaves that folder behind; the next writer of the same bag
    removes it.

    Args:
        path: the folder to make.
        storage: "mcap" or "sqlite3".
        compress: zstd the chunks of an mcap; readers need no telling.
        force: replace an existing bag.
        sweep: remove what a killed writer of the same bag left. Not for recordings, which cannot be made again.

    Raises:
        BagError: `path` exists and `force` is not given, or it exists and is no bag; `compress` without mcap. While
            writing, what the disk refuses.
    """

    def __init__(
        self,
        path: str | Path,
        storage: Storage = "mcap",
        *,
        compress: bool = False,
        force: bool = False,
        sweep: bool = True,
    ) -> None:
        self.path = Path(path)
        if compress and storage != "mcap":
            raise BagError(f"{self.path}: chunk compression needs mcap storage, not {storage}")
        check_replaceable(self.path, force)
        self._storage = StoragePlugin[storage.upper()]
        self._compress = compress
        self._sweep = sweep
        self._connections: dict[str, Connection] = {}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> BagWriter:
        with contextlib.ExitStack() as opening, self._refusals():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._sweep:
                _remove_abandoned(self.path)
            self._staging = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", dir=self.path.parent))
            opening.callback(shutil.rmtree, self._staging, ignore_errors=True)
            opening.enter_context(_marked_in_use(self._staging))
            # rosbags names the storage file after the folder, so the folder inside has its final name.
            self._writer = Writer(self._staging / self.path.name, version=9, storage_plugin=self._storage)
            if self._compress:
                self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            self._writer.open()
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            if error is not None:
                with contextlib.suppress(OSError, sqlite3.Error):  # what went wrong is said already
                    self._writer.abort()
                return
            with self._refusals():
                self._writer.close()
                if self.path.exists():
                    self.path.rename(self._staging / "replaced")
                (self._staging / self.path.name).rename(self.path)

    def add_topic(
        self,
        topic: str,
        message_type: str,
        *,
        latched: bool = False,
        qos: Sequence[Qos] = (),
        definition: tuple[str, str] | None = None,
    ) -> None:
        """Announce a topic; a topic announced before is left as it is.

        Args:
            topic: its name.
            message_type: as "sensor_msgs/msg/Image".
            latched: whether late subscribers get the last message (transient local).
            qos: what to say its publisher offered; by default reliable, and transient local where latched.
            definition: text and RIHS01 hash, for types that ROS 2 Jazzy's common interfaces lack.
        """
        if topic in self._connections:
            return
        text, digest = definition or (None, None)
        with self._refusals():
            self._connections[topic] = self._writer.add_connection(
                topic,
                message_type,
                typestore=TYPESTORE if definition is None else None,
                msgdef=text,
                rihs01=digest,
                offered_qos_profiles=tuple(qos) or (LATCHED_QOS if latched else RELIABLE_QOS,),
            )

    def write(self, topic: str, time: int, message: Any, *, latched: bool = False) -> None:
        """Write a message made from a class of `TYPESTORE`, announcing its topic where needed.

        Args:
            topic: its name.
            time: of recording, nanoseconds since the epoch.
            message: the message object.
            latched: as in `add_topic`.
        """
        message_type: str = message.__msgtype__
        self.add_topic(topic, message_type, latched=latched)
        self.write_serialized(topic, time, TYPESTORE.serialize_cdr(message, message_type))

    def write_serialized(self, topic: str, time: int, data: bytes | memoryview) -> None:
        """Write the CDR bytes of a message of an announced topic."""
        with self._refusals():
            self._writer.write(self._connections[topic], time, data)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """What the disk refuses, as a BagError."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise BagError(f"{self.path}: cannot be written: {error}") from error


def check_replaceable(path: Path, force: bool) -> None:
    """Raise a BagError unless a bag may be written at `path`: nothing is there, or a bag is and `force` is given."""
    if not path.exists():
        return
    if not force:
        raise BagError(f"{path}: exists already; --force replaces it")
    if not (path / "metadata.yaml").is_file():
        raise BagError(f"{path}: exists and is not a rosbag2 folder, so --force does not replace it")


@contextlib.contextmanager
def _marked_in_use(staging: Path) -> Iterator[None]:
    """Holds a lock on a file in a staging folder. The system lets go of it however the process ends."""
    with (staging / _LOCK).open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: there, nothing is ever taken for abandoned
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_abandoned(path: Path) -> None:
    """Remove the staging folders of writers of `path` that were killed."""
    for staging in path.parent.iterdir():
        # tempfile puts eight characters behind the prefix.
        if re.fullmatch(rf"\.{re.escape(path.name)}-\w{{8}}", staging.name) and (staging / _LOCK).is_file():
            with (staging / _LOCK).open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:  # in use, or nobody can tell
                    continue
                shutil.rmtree(staging)


def copy_compressed(source: BagReader, path: Path, *, force: bool = False) -> None:
    """Write all of a bag again as an mcap with zstd chunks.

    Raises:
        BagError: `source` is damaged, or `path` exists and `force` is not given.
    """
    with BagWriter(path, compress=True, force=force) as writer:
        for topic in source.topics.values():
            writer.add_topic(
                topic.name, topic.type, latched=topic.latched, qos=topic.qos, definition=source.definition(topic.type)
            )
        for message in source.messages():
            writer.write_serialized(message.topic, message.time, message.data)
