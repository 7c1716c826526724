"""The drive of waymo_samples as a TFRecord of Frame messages (the data set's version 1), encoded by protobuf."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from waymo_samples import WaymoDrive

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "float": _FIELD.TYPE_FLOAT,
    "double": _FIELD.TYPE_DOUBLE,
}
# From dataset.proto: message, then label, type, name and number of its fields; enums are int32 on the wire.
_PROTO = """
MatrixShape: repeated int32 dims 1
MatrixFloat: packed float data 1, optional MatrixShape shape 2
Transform: repeated double transform 1
CameraCalibration: optional int32 name 1, repeated double intrinsic 2, optional Transform extrinsic 3,
  optional int32 width 4, optional int32 height 5, optional int32 rolling_shutter_direction 6
LaserCalibration: optional int32 name 1, repeated double beam_inclinations 2, optional double beam_inclination_min 3,
  optional double beam_inclination_max 4, optional Transform extrinsic 5
Context: optional string name 1, repeated CameraCalibration camera_calibrations 2,
  repeated LaserCalibration laser_calibrations 3
CameraImage: optional int32 name 1, optional bytes image 2, optional Transform pose 3, optional double pose_timestamp 5,
  optional double shutter 6
RangeImage: optional bytes range_image_compressed 2, optional bytes range_image_pose_compressed 4
Laser: optional int32 name 1, optional RangeImage ri_return1 2, optional RangeImage ri_return2 3
Frame: optional Context context 1, optional int64 timestamp_micros 2, optional Transform pose 3,
  repeated CameraImage images 4, repeated Laser lasers 5
"""


def _message_classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="dataset.proto", package="waymo", syntax="proto2")
    for definition in _PROTO.replace(",\n ", ",").strip().splitlines():
        name, _, fields = definition.partition(":")
        message = file.message_type.add(name=name)
        for label, kind, field, number in (entry.split() for entry in fields.split(",")):
            added = message.field.add(name=field, number=int(number), label=_FIELD.LABEL_REPEATED)
            if label == "optional":
                added.label = _FIELD.LABEL_OPTIONAL
            added.options.packed = label == "packed"
            if kind in _TYPES:
                added.type = _TYPES[kind]
            else:
                added.type, added.type_name = _FIELD.TYPE_MESSAGE, f".waymo.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [message.name for message in file.message_type]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"waymo.{name}")) for name in names}


MESSAGES = _message_classes()


def frames(drive: WaymoDrive) -> list[Any]:
    """The drive's Frame messages."""
    context = MESSAGES["Context"](name=drive.rows["vehicle_pose"][0]["key.segment_context_name"])
    for row in drive.rows["camera_calibration"]:
        camera = context.camera_calibrations.add(name=row["key.camera_name"], width=row["width"], height=row["height"])
        camera.intrinsic.extend(
            row[f"intrinsic.{n}"] for n in ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
        )
        camera.extrinsic.transform.extend(row["extrinsic.transform"])
    for row in drive.rows["lidar_calibration"]:
        laser = context.laser_calibrations.add(name=row["key.laser_name"])
        laser.beam_inclination_min, laser.beam_inclination_max = (row[f"beam_inclination.{n}"] for n in ("min", "max"))
        values = row["beam_inclination.values"]
        laser.beam_inclinations.extend(() if values is None else values)
        laser.extrinsic.transform.extend(row["extrinsic.transform"])
    made = []
    for pose in drive.rows["vehicle_pose"]:
        time = pose["key.frame_timestamp_micros"]
        frame = MESSAGES["Frame"](context=context, timestamp_micros=time)
        frame.pose.transform.extend(pose["world_from_vehicle.transform"])
        images, scans, poses = (
            [row for row in drive.rows[component] if row["key.frame_timestamp_micros"] == time]
            for component in ("camera_image", "lidar", "lidar_pose")
        )
        for row in images:
            image = frame.images.add(name=row["key.camera_name"], image=row["image"])
            image.pose_timestamp = row["pose_timestamp"]
            image.pose.transform.extend(row["pose.transform"])
        for row in scans:
            laser = frame.lasers.add(name=row["key.laser_name"])
            laser.ri_return1.range_image_compressed = _deflated(row, "range_image_return1")
            laser.ri_return2.range_image_compressed = _deflated(row, "range_image_return2")
            for of_laser in poses:
                if of_laser["key.laser_name"] == row["key.laser_name"]:
                    laser.ri_return1.range_image_pose_compressed = _deflated(of_laser, "range_image_return1")
        made.append(frame)
    return made


def write_tfrecord(path: Path, messages: list[Any]) -> Path:
    """Messages in TensorFlow's record format; the checksums are zero."""
    with path.open("wb") as stream:
        for message in messages:
            data = message.SerializeToString()
            stream.write(struct.pack("<QI", len(data), 0) + data + bytes(4))
    return path


def _deflated(row: dict[str, Any], image: str) -> bytes:
    matrix = MESSAGES["MatrixFloat"](data=np.asarray(row[f"{image}.values"]))
    matrix.shape.dims.extend(row[f"{image}.shape"])
    return zlib.compress(matrix.SerializeToString())
