"""The compact semantic encoder: a pretrained backbone whose features become a few query tokens, as in SeeCoder."""

from typing import NamedTuple

from torch import Tensor, nn

from sem_depth_training.models.efficientnet_lite import EfficientNetLite0
from sem_depth_training.models.seecoder import MultiScaleDecoder, QueryTransformer


class ImageSemantics(NamedTuple):
    """What a semantic encoder says of an image: tokens [B, N, D] and feature maps at 1/2, 1/4, 1/8, 1/16, 1/32."""

    tokens: Tensor
    pyramid: list[Tensor]


class CompactSemanticEncoder(nn.Module):
    """EfficientNet-Lite0, SeeCoder's multi-scale decoder over its two coarsest maps, and its query transformer.

    `forward` takes RGB in [0, 1], [B, 3, H, W]. For the paper's ablation `tokens`, a module from the image to tokens,
    takes the place of SeeCoder's parts; without it and without `conditioning` the tokens are the same for every image
    (the queries' learned start).
    """

    def __init__(
        self,
        dim: int,
        global_queries: int,
        local_queries: int,
        heads: int,
        layers: int,
        feedforward_dim: int,
        conditioning: bool = True,
        position_aware: bool = False,
        pretrained: bool = False,
        tokens: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = EfficientNetLite0(pretrained)
        self.tokens = tokens
        self.decoder: MultiScaleDecoder | None = None
        if tokens is not None:
            return
        if conditioning:
            channels = dict(zip(("res4", "res5"), self.backbone.channels[-2:], strict=True))
            self.decoder = MultiScaleDecoder(
                channels, dim, heads, layers=1, feedforward_dim=feedforward_dim, dropout=0.0, attention="tokens"
            )
            self.queries = QueryTransformer(
                dim, global_queries, local_queries, heads, layers, feedforward_dim, len(channels), position_aware
            )
        else:
            self.constant = nn.Embedding(global_queries + local_queries, dim)

    def forward(self, image: Tensor) -> ImageSemantics:
        pyramid = self.backbone(image)
        if self.tokens is not None:
            tokens = self.tokens(image)
        elif self.decoder is None:
            tokens = self.constant.weight[None].expand(image.shape[0], -1, -1)
        else:
            tokens = self.queries(self.decoder({"res4": pyramid[3], "res5": pyramid[4]}))
        return ImageSemantics(tokens, pyramid)
