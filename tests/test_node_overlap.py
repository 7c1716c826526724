"""Parameter overlap: frames are published beside the network's next run, and stay what they were."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from encoded_images import encode
from running_node import RunningNode, bench, free_domain, nanoseconds
from scenes import HEIGHT, SECOND, WIDTH, image_message, info_message, metric_depth, plane

from sem_depth_node.bundle import ModelBundle

STAMP = 1_600_000_000 * SECOND
FRAMES = 60


def test_frames_in_quick_succession_keep_their_order_depth_and_colours(tiny_bundle: ModelBundle) -> None:
    domain = free_domain()
    parameters = {"bundle": str(tiny_bundle.folder), "engine": "onnxruntime", "overlap": True}
    with RunningNode(domain, parameters) as node, bench(domain) as robot:
        node.said("active", "/image")
        robot.camera()
        robot.listen_to_all()
        reds = {STAMP + index * SECOND // 100: 20 + 3 * index for index in range(FRAMES)}
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for stamp, red in reds.items():
            picture[..., 0] = red
            # Not rgb8, which needs no decoding: what one frame was decoded into must not be the next one's already.
            robot.show(image_message(stamp, encode(picture, "bgr8")), info_message(stamp))
        robot.output("depth/timing", stamp)

        depths = {nanoseconds(message): plane(message) for message in robot.received["depth/image"]}
        assert list(depths) == sorted(depths)
        assert len(depths) > 2
        for stamp, depth in depths.items():
            assert depth == pytest.approx(metric_depth(reds[stamp]), rel=1e-6)
            cloud = np.frombuffer(robot.output("depth/points", stamp).data, "<f4").reshape(HEIGHT, WIDTH, 4)
            assert cloud[..., 2] == pytest.approx(depth, rel=1e-5)
            assert set(np.unique(np.ascontiguousarray(cloud[..., 3]).view(np.uint32))) == {reds[stamp] << 16}
        for topic in ("depth/points", "depth/confidence", "depth/preview", "depth/timing"):
            stamps = [nanoseconds(message) for message in robot.received[topic]]
            assert all(a < b for a, b in itertools.pairwise(stamps)), topic
