"""A depth network as an ONNX graph of the bundle contract, normalisation inside: for one size, or for a profile."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import nn

from sem_depth_node.bundle import ShapeProfile
from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.models.seecoder import MultiScaleDecoder, QueryTransformer, SeeCoder

OPSET = 21
"""The first with a group norm of its own, in place of reshapes around an instance norm."""


SIZE_STEP = 32
"""Height and width of every network's input are multiples of it: the stride of its coarsest whole map."""


def export_graph(network: DepthNetwork, size: tuple[int, int], profile: ShapeProfile | None = None) -> ir.Model:
    """The network as a float32 graph for images of ``size`` (height, width), or of every size in ``profile``.

    Its weights stay the network's own memory until :func:`save_graph` writes them. The network is left in evaluation
    mode with frozen parameters.
    """
    network.eval().requires_grad_(False)
    # Without no_grad the exporter plans attention for training, and its shapes then do not fit.
    with torch.no_grad():
        return onnx_program(network, size, OPSET, ("depth", "log_scale"), profile).model


def onnx_program(
    network: nn.Module,
    size: tuple[int, int],
    opset: int,
    output_names: Sequence[str] | None = None,
    profile: ShapeProfile | None = None,
) -> torch.onnx.ONNXProgram:
    """What PyTorch's exporter makes of a network whose one argument is ``image``, uint8 [1, height, width, 3]."""
    # The exporter's remarks on torchvision, on itself and on what it did not fold are of no use to whoever exports.
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            network,
            (torch.zeros(1, *size, 3, dtype=torch.uint8),),
            dynamo=True,
            input_names=["image"],
            output_names=output_names,
            dynamic_shapes=open_sizes(profile),
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    return program


def open_sizes(profile: ShapeProfile | None) -> Any:
    """``dynamic_shapes`` of :func:`torch.onnx.export` for a network's one argument; None leaves its size fixed."""
    if profile is None:
        return None
    low, high = ([side // profile.multiple for side in size] for size in (profile.min, profile.max))
    sides = [torch.export.Dim(name, min=a, max=b) for name, a, b in zip(("rows", "columns"), low, high, strict=True)]
    return ({1: profile.multiple * sides[0], 2: profile.multiple * sides[1]},)


def save_graph(graph: ir.Model, path: Path, weights: str) -> None:
    """Write a graph to ``path`` and its weights to the file named ``weights`` beside it, which may exceed 2 GB.

    What the exporter noted on each node (source lines of this machine, module names) is left out; ``graph`` keeps it.
    """
    bare = graph.clone()
    ClearMetadataAndDocStringPass()(bare)
    ir.save(bare, path, external_data=weights)


def seecoder_scopes(network: DepthNetwork) -> list[str]:
    """Module paths of SeeCoder's parts, whose sums half precision must not hold."""
    parts = (SeeCoder, MultiScaleDecoder, QueryTransformer)
    return [name for name, module in network.named_modules() if isinstance(module, parts)]
