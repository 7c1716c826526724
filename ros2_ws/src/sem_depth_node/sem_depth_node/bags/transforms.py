"""The transforms of a bag."""

from __future__ import annotations

from sem_depth_node.bags.reader import BagReader
from sem_depth_node.transforms import TransformTree

TF_MESSAGE = "tf2_msgs/msg/TFMessage"


def transforms_of(bag: BagReader) -> TransformTree:
    """All transforms of a bag: topics named tf and tf_static, in any namespace.

    Raises:
        ValueError: a transform's quaternion has no length.
    """
    topics = [
        t.name for t in bag.topics.values() if t.type == TF_MESSAGE and t.name.rpartition("/")[2] in ("tf", "tf_static")
    ]
    return TransformTree(
        (stamped, message.topic.endswith("tf_static"))
        for message in (bag.messages(topics) if topics else ())
        for stamped in bag.decode(message).transforms
    )
