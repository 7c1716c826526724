"""From sensor_msgs/PointCloud2 to points."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# sensor_msgs/PointField datatypes as NumPy's, without byte order.
_FIELD_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}


def xyz(cloud: Any) -> NDArray[np.float64]:
    """The finite points (N, 3) of a PointCloud2, in the frame it is in.

    Raises:
        ValueError: it has no fields x, y, z, or its sizes disagree.
    """
    fields = {field.name: field for field in cloud.fields}
    if missing := [name for name in "xyz" if name not in fields]:
        raise ValueError(f"point cloud has no field {', '.join(missing)}, only {', '.join(fields) or 'none'}")
    if cloud.row_step < cloud.width * cloud.point_step or len(cloud.data) < cloud.height * cloud.row_step:
        raise ValueError(
            f"point cloud of {cloud.width}x{cloud.height} points of {cloud.point_step} bytes has row_step "
            f"{cloud.row_step} and {len(cloud.data)} bytes of data"
        )
    order = ">" if cloud.is_bigendian else "<"
    record = np.dtype(
        {
            "names": list("xyz"),
            "formats": [order + _FIELD_DTYPES[fields[name].datatype] for name in "xyz"],
            "offsets": [fields[name].offset for name in "xyz"],
            "itemsize": cloud.point_step,
        }
    )
    rows = np.ndarray(
        (cloud.height, cloud.width), record, np.asarray(cloud.data), strides=(cloud.row_step, cloud.point_step)
    )
    points = np.stack([rows[name].reshape(-1).astype(np.float64) for name in "xyz"], axis=1)
    return points[np.isfinite(points).all(axis=1)]
