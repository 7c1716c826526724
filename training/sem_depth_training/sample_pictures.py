"""Pictures of training samples for TensorBoard."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sem_depth_node.preview import DepthPainter
from sem_depth_node.validity import confidence
from sem_depth_training.data.batches import Batch

_SHOWN = 3


@torch.no_grad()
def sample_pictures(batch: Batch, log_depth: Tensor, log_scale: Tensor, canonical_focal_length: float) -> Tensor:
    """Image, true depth, predicted depth and confidence of the first samples, row by row: uint8 [3, H, W].

    Depth is red near and blue far, black where unknown; confidence white where the network is sure. `log_depth` and
    `log_scale` are the network's, [B, H, W].
    """
    painter = DepthPainter()

    def painted(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
        picture = np.empty((*depth.shape, 3), np.uint8)
        painter.paint(depth, picture)
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)

    rows = []
    for index in range(min(_SHOWN, len(batch.image))):
        truth = batch.depth[index].cpu().numpy()
        # Single measurements would be hard to see.
        truth = cv2.dilate(truth, np.ones((3, 3), np.uint8)) if batch.sparse[index] else truth
        metres = torch.exp(log_depth[index].float()) * (batch.focal[index] / canonical_focal_length)
        certainty = np.empty(truth.shape, np.float32)
        confidence(log_scale[index].float().cpu().numpy(), out=certainty)
        grey = np.repeat((certainty * 255).astype(np.uint8)[..., None], 3, axis=2)
        known = np.where(truth > 0, truth, np.float32(np.nan)).astype(np.float32)
        parts = [batch.image[index].cpu().numpy(), painted(known), painted(metres.cpu().numpy()), grey]
        rows.append(np.hstack(parts))
    return torch.from_numpy(np.vstack(rows)).permute(2, 0, 1)
