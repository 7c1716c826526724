"""From a checkpoint to a model bundle: the same checkpoint gives the same bytes."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from pydantic import ValidationError
from torch import nn

from sem_depth_node.bundle import BundleInput, GraphInput, ModelBundle, ShapeProfile, write_bundle
from sem_depth_node.engines.onnxruntime import OnnxRuntimeEngine
from sem_depth_node.framing import Framing
from sem_depth_node.metrics import mean_metrics
from sem_depth_training.checkpoint import network_of, read_checkpoint
from sem_depth_training.data.frames import Frame
from sem_depth_training.evaluate import PROTOCOL, bundle_predictor, frame_metrics
from sem_depth_training.half_precision import MEDIAN_DIFFERENCE, extreme_frames, to_half_precision
from sem_depth_training.models.depth_network import DepthNetwork
from sem_depth_training.networks import pretraining
from sem_depth_training.onnx_graph import SIZE_STEP, export_graph, onnx_program, save_graph, seecoder_scopes

OPSET = 18
MAX_DIFFERENCE = 1e-3
WEIGHTS = "weights.bin"
_EXTERNAL_BYTES = 1024  # smaller tensors stay in the graph


class ExportError(Exception):
    """The exported graph does not do what the network does, or cannot be written."""


def export_bundle(
    checkpoint: Path,
    folder: Path,
    check_frames: Sequence[Frame],
    evaluated: Sequence[Frame],
    dataset: str,
    profile: ShapeProfile | None = None,
) -> ModelBundle:
    """Write the bundle of a checkpoint's averaged weights.

    Args:
        checkpoint: as `fit` wrote it.
        folder: the bundle's folder; a bundle there is replaced.
        check_frames: real frames on which ONNX Runtime must agree with torch.
        evaluated: frames whose metrics, measured on the exported files, go into the manifest under the name `dataset`.
        profile: one graph for all sizes in it, in place of one for each size that the configuration names. It is
            checked at its smallest, its best and its largest size.

    Raises TrainingError for a wrong checkpoint, ExportError when ONNX Runtime and torch differ by more than 1e-3, or
    the disk is full.
    """
    state = read_checkpoint(checkpoint)
    network, config = network_of(state, checkpoint)
    round_to_half(network)
    settings = config.bundle
    with tempfile.TemporaryDirectory() as scratch, _writing_to(Path(scratch), folder):
        place = Path(scratch)
        half = settings.precision == "float16"
        inputs = settings.inputs if profile is None else [profile.opt]
        files = (export_half_graphs if half else export_graphs)(network, inputs, place, profile)
        for file, size in zip(files, inputs, strict=False):
            for checked in [size] if profile is None else [profile.min, size, profile.max]:
                graph = BundleInput(file, *checked, profile)
                (check_half_graph if half else check_graph)(network, graph, check_frames)
        manifest: dict[str, Any] = {
            "name": settings.name,
            "description": settings.description,
            "inputs": [
                GraphInput(onnx=file.name, height=height, width=width, profile=profile)
                for file, (height, width) in zip(files, inputs, strict=False)
            ],
            "canonical_focal_length": network.canonical_focal_length,
            "depth_range": settings.depth_range,
            "precision": settings.precision,
            "training_data": [*state["training_data"], *pretraining(config)],
            "weights_licence": settings.weights_licence,
        }
        measured = write_bundle(place / "measured", files, {**manifest, "metrics": []})
        means = mean_metrics(frame_metrics(bundle_predictor(measured), evaluated))
        values = {name: round(value, 4) for name, value in means.items()}
        manifest["metrics"] = [{"dataset": dataset, "protocol": PROTOCOL, "values": values}]
        return write_bundle(folder, files, manifest)


@contextmanager
def _writing_to(*folders: Path) -> Iterator[None]:
    """Within it files are written there. A full disk does not say which file did not fit, so this says what is free."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        parents = (
            next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir()) for folder in folders
        )
        free = " and ".join(f"{parent} has {shutil.disk_usage(parent).free >> 20} MiB free" for parent in parents)
        raise ExportError(
            f"{folders[-1]}: cannot be written ({error.strerror}); {free}. Free space there, or set TMPDIR"
        ) from error


@torch.no_grad()
def round_to_half(network: nn.Module) -> None:
    """Round large weights to what float16 can hold: the bundle stores them in half the size and computes in float32."""
    for tensor in network.state_dict().values():
        if tensor.is_floating_point() and tensor.numel() * 4 >= _EXTERNAL_BYTES:
            tensor.copy_(tensor.half().float())


def size_profile(smallest: tuple[int, int], best: tuple[int, int], largest: tuple[int, int]) -> ShapeProfile:
    """The sizes (height, width) that one graph is to take. Raises ExportError naming a size that cannot be."""
    # The network's coarsest map would be a pixel wide there, and the exporter takes a side of 1 for a constant.
    if min(smallest) < 2 * SIZE_STEP:
        raise ExportError(
            f"profile: smallest height is {smallest[0]} and width {smallest[1]}, expected at least {2 * SIZE_STEP}"
        )
    try:
        return ShapeProfile(min=smallest, opt=best, max=largest, multiple=SIZE_STEP)
    except ValidationError as error:
        raise ExportError("profile: " + "; ".join(problem["msg"] for problem in error.errors())) from error


def export_graphs(
    network: nn.Module, sizes: Sequence[tuple[int, int]], folder: Path, profile: ShapeProfile | None = None
) -> list[Path]:
    """ONNX files model_HxW.onnx for each (height, width), and last the file of weights that they share.

    With a `profile`, `sizes` is the one that it is tuned for, and the file model.onnx takes every size in it.
    """
    models = [_export(network, height, width, profile) for height, width in sizes]
    offsets: dict[str, int] = {}
    files = []
    with (folder / WEIGHTS).open("wb") as weights:
        for model, (height, width) in zip(models, sizes, strict=True):
            _store_as_half(model)
            for tensor in model.graph.initializer:
                data = tensor.raw_data
                if len(data) < _EXTERNAL_BYTES:
                    continue
                digest = hashlib.sha256(data).hexdigest()
                if digest not in offsets:
                    weights.write(b"\0" * (-weights.tell() % 64))
                    offsets[digest] = weights.tell()
                    weights.write(data)
                _make_external(tensor, offsets[digest], len(data))
            file = folder / _file_name("model", (height, width), profile, "onnx")
            file.write_bytes(model.SerializeToString(deterministic=True))
            files.append(file)
    return [*files, folder / WEIGHTS]


def check_graph(network: nn.Module, graph: BundleInput, frames: Sequence[Frame]) -> float:
    """The largest relative difference of depth, or difference of log scale, between ONNX Runtime and torch."""
    engine = OnnxRuntimeEngine(graph)
    worst = 0.0
    for frame in frames:
        image = Framing(frame.camera, graph.height, graph.width).to_engine(frame.read_image()).copy()
        output = engine.infer(image)
        with torch.no_grad():
            depth, log_scale = (tensor[0].numpy() for tensor in network(torch.from_numpy(image)[None]))
        relative = float(np.max(np.abs(output.depth / depth - 1)))
        worst = max(worst, relative, float(np.max(np.abs(output.log_scale - log_scale))))
        if not worst < MAX_DIFFERENCE:
            raise ExportError(
                f"{graph.path.name}: ONNX Runtime and torch differ by {worst:.2e} on {frame.image}, "
                f"expected less than {MAX_DIFFERENCE:g}; nothing was written"
            )
    engine.close()
    return worst


def export_half_graphs(
    network: DepthNetwork, sizes: Sequence[tuple[int, int]], folder: Path, profile: ShapeProfile | None = None
) -> list[Path]:
    """Like `export_graphs` in strongly typed half precision, and with a file of weights for each graph."""
    graphs, weights = [], []
    for height, width in sizes:
        graph = export_graph(network, (height, width), profile)
        to_half_precision(graph, seecoder_scopes(network))
        graphs.append(folder / _file_name("model", (height, width), profile, "onnx"))
        weights.append(folder / _file_name("weights", (height, width), profile, "bin"))
        save_graph(graph, graphs[-1], weights[-1].name)
    return [*graphs, *weights]


def check_half_graph(network: nn.Module, graph: BundleInput, frames: Sequence[Frame]) -> float:
    """The largest median relative difference of depth between ONNX Runtime and torch in float32.

    Raises ExportError where it is beyond `MEDIAN_DIFFERENCE`, or where a frame, or one scaled to the extremes, gives
    values that are not finite.
    """
    engine = OnnxRuntimeEngine(graph)
    worst = 0.0
    for frame in frames:
        image = Framing(frame.camera, graph.height, graph.width).to_engine(frame.read_image()).copy()
        with torch.no_grad():
            depth = network(torch.from_numpy(image)[None])[0][0].numpy()
        for name, scaled in extreme_frames(image).items():
            output = engine.infer(scaled)
            if not (np.isfinite(output.depth).all() and np.isfinite(output.log_scale).all()):
                raise ExportError(f"{graph.path.name}: values that are not finite on {frame.image} ({name})")
            if scaled is image:
                worst = max(worst, float(np.median(np.abs(output.depth / depth - 1))))
        if not worst < MEDIAN_DIFFERENCE:
            raise ExportError(
                f"{graph.path.name}: ONNX Runtime and torch differ by {worst:.2e} in the median on {frame.image}, "
                f"expected less than {MEDIAN_DIFFERENCE:g}; nothing was written"
            )
    engine.close()
    return worst


def _export(network: nn.Module, height: int, width: int, profile: ShapeProfile | None) -> ModelProto:
    model: ModelProto = onnx_program(network, (height, width), OPSET, ("depth", "log_scale"), profile).model_proto
    # Stack traces, paths and the build of PyTorch ("+cpu") are no part of a network, and would differ elsewhere.
    model.producer_version = model.producer_version.partition("+")[0]
    model.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for part in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    return model


def _file_name(part: str, size: tuple[int, int], profile: ShapeProfile | None, suffix: str) -> str:
    return f"{part}.{suffix}" if profile else f"{part}_{size[0]}x{size[1]}.{suffix}"


def _store_as_half(model: ModelProto) -> None:
    """Keep float32 initializers that float16 holds exactly as float16, and cast them back in the graph."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.nbytes < _EXTERNAL_BYTES or not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _make_external(tensor: TensorProto, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
