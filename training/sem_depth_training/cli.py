"""The command `sem-depth-train`."""

import signal
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console

from sem_depth_training.streets.render import render, render_drive
from sem_depth_training.whole_file import write_whole

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def _command() -> None:
    """Train, evaluate and export the depth networks of sem_depth."""


app.command()(render)
app.command("render-drive")(render_drive)


@app.command()
def fit(
    config: Annotated[Path, typer.Argument(help="YAML configuration, as in training/configs/.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run: checkpoint and TensorBoard logs.")],
) -> None:
    """Train a network; run it again to go on where it stopped."""
    import torch.distributed

    from sem_depth_training.config import read_config
    from sem_depth_training.train import fit as run

    run(read_config(config), output)
    # Gloo's threads, still running when the interpreter ends, abort a process whose training went well.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@app.command("stereo-labels")
def stereo_labels(
    index: Annotated[Path, typer.Argument(help="index.csv with stereo pairs, images NAMEl.jpg and NAMEr.jpg.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the completed index.csv.")],
    baseline: Annotated[float, typer.Option(help="Metres between the cameras.")] = 0.533,
    split: Annotated[str, typer.Option(help="Split of the index.")] = "train",
) -> None:
    """Complete sparse depth from stereo pairs, and mark the sky; the result is one more index to train on."""
    from rich.progress import track

    from sem_depth_training.data.stereo import complete_index, stereo_pairs

    pairs = track(stereo_pairs(index, split), "matching")
    console = Console()
    console.print(f"{complete_index(pairs, output, baseline)}")


@app.command("write-index")
def write_index(
    sources: Annotated[Path, typer.Argument(help="YAML file with a section `data`, as configurations have it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the index.csv.")],
    split: Annotated[str, typer.Option(help="What the index calls these frames.")] = "val",
) -> None:
    """Make an index.csv of data sets in their official layouts, Eigen's split among them, to evaluate and export by."""
    from sem_depth_training.config import read_source_config
    from sem_depth_training.data.source_index import write_source_index

    print(write_source_index(read_source_config(sources).data, output, split))


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A checkpoint.pt of a run, or a bundle's folder (its shipped files).")],
    index: Annotated[Path, typer.Argument(help="index.csv of the frames.")],
    split: Annotated[str, typer.Option(help="Split of the index.")] = "val",
    floor_split: Annotated[str, typer.Option(help="Split that gives the floor; '' leaves the floor out.")] = "train",
    streets: Annotated[Path | None, typer.Option(help="index.csv of rendered streets: dense depth, weather.")] = None,
    streets_split: Annotated[str, typer.Option(help="Split of the rendered streets.")] = "train",
    drive: Annotated[Path | None, typer.Option(help="Bag with images and LiDAR at full rate: flicker.")] = None,
    size: Annotated[str, typer.Option(help="Input size of a checkpoint, HEIGHTxWIDTH.")] = "192x640",
    crop: Annotated[str, typer.Option(help="garg, eigen or none.")] = "garg",
    flip: Annotated[bool, typer.Option(help="Average with the mirrored image.")] = False,
    windows: Annotated[int, typer.Option(help="Average over so many windows; 0 is the whole image.", min=0)] = 0,
    frames: Annotated[int, typer.Option(help="Only so many frames of each set, evenly chosen; 0 is all.", min=0)] = 0,
    engine: Annotated[
        str, typer.Option(help="That runs a bundle: auto, tensorrt, openvino, onnxruntime.")
    ] = "onnxruntime",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything, frame by frame.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Tables for a document.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for pictures: curves, best and worst, weather.")] = None,
) -> None:
    """Accuracy, calibration, boundaries and flicker on frames with known depth; the protocol is printed with them."""
    from sem_depth_training.evaluation import EvaluationRequest, run

    if crop not in ("garg", "eigen", "none"):
        raise typer.BadParameter(f"--crop: expected garg, eigen or none, found {crop}")
    if windows == 1:
        raise typer.BadParameter("--windows: expected at least 2, or 0 for the whole image")
    request = EvaluationRequest(
        model,
        index,
        split,
        floor_split or None,
        streets,
        streets_split,
        drive,
        _size(size, "--size"),
        crop,
        flip,
        windows,
        frames,
        engine,
    )
    run(request, Console(), json_file, markdown_file, plots)


@app.command()
def robustness(
    model: Annotated[Path, typer.Argument(help="A bundle's folder, or a checkpoint.pt of a run.")],
    index: Annotated[Path, typer.Argument(help="index.csv of frames with measured depth.")],
    json_file: Annotated[
        Path, typer.Option("--json", help="Results; what is in it already is not measured again.")
    ] = Path("robustness.json"),
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="The table for a document.")] = None,
    split: Annotated[str, typer.Option(help="Split of the index.")] = "val",
    floor_split: Annotated[str, typer.Option(help="Split that gives the baseline, the floor.")] = "train",
    baseline: Annotated[Path | None, typer.Option(help="Results of another model as the baseline instead.")] = None,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH at which images are corrupted and shown.")] = "192x640",
    frames: Annotated[int, typer.Option(help="Only so many frames, evenly chosen; 0 is all.", min=0)] = 0,
    without: Annotated[list[str], typer.Option(help="Leave out this corruption.")] = [],  # noqa: B006
) -> None:
    """Accuracy under RoboDepth's 18 corruptions, rain and night, in five severities; stop and go on as you like."""
    from sem_depth_training.corruptions import CORRUPTIONS
    from sem_depth_training.robustness import Measurement, run

    if unknown := [name for name in without if name not in CORRUPTIONS]:
        raise typer.BadParameter(f"--without: expected some of {', '.join(CORRUPTIONS)}, found {', '.join(unknown)}")
    names = [name for name in CORRUPTIONS if name not in without]
    measurement = Measurement(model, index, split, _size(size, "--size"), frames)
    run(measurement, names, json_file, markdown_file, baseline or floor_split, Console())


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint.pt of a run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle.")],
    index: Annotated[Path, typer.Option(help="index.csv of real frames: agreement with torch, and the metrics.")],
    split: Annotated[str, typer.Option(help="Split of the index.")] = "val",
    dataset: Annotated[str, typer.Option(help="What the manifest calls these frames.")] = "",
    profile: Annotated[
        str | None,
        typer.Option(
            help="One graph for many sizes in place of one for each: smallest, best and largest HEIGHTxWIDTH, "
            "such as 96x320:192x640:384x1280."
        ),
    ] = None,
) -> None:
    """Write the model bundle of a checkpoint; the same checkpoint gives the same bytes."""
    from sem_depth_training.data.frames import read_index
    from sem_depth_training.export import export_bundle, size_profile

    sizes = None
    if profile is not None:
        parts = [_size(part, "--profile") for part in profile.split(":")]
        if len(parts) != 3:
            raise typer.BadParameter(f"--profile: expected SMALLEST:BEST:LARGEST, found '{profile}'")
        sizes = size_profile(*parts)
    frames = read_index(index, split)
    name = dataset or f"{index.parent.name}/{split}, {len(frames)} frames"
    bundle = export_bundle(checkpoint, output, frames[:: max(1, len(frames) // 5)], frames, name, sizes)
    values = bundle.manifest.metrics[0].values
    print(f"{output}: {bundle.digest}\n" + ", ".join(f"{key} {value:g}" for key, value in values.items()))


@app.command()
def ablation(
    config: Annotated[Path, typer.Argument(help="YAML configuration of preset compact, with validation frames.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder with a folder for each run.")],
    conditionings: Annotated[list[str], typer.Option("--conditioning", help="Compare this one; more than once.")] = [  # noqa: B006
        "seecoder",
        "seecoder_pa",
        "clip",
        "none",
    ],
    seeds: Annotated[int, typer.Option(help="Runs of each, with seeds 1, 2, ...", min=1)] = 2,
    steps: Annotated[int, typer.Option(help="Of each run.", min=1)] = 200,
    markdown: Annotated[Path, typer.Option(help="Where the table goes.")] = Path("ablation.md"),
) -> None:
    """Train the compact network under each conditioning with equal budgets, and compare; run it again to go on."""
    from sem_depth_training.ablation import run_ablation
    from sem_depth_training.config import read_config

    run_ablation(read_config(config), output, conditionings, range(1, seeds + 1), steps, markdown, Console())


@app.command("release-weights")
def release_weights(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="checkpoint.pt of a run; the mean of several of one origin.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="NAME.safetensors.")],
    calibrate: Annotated[
        Path | None,
        typer.Option(help="index.csv of frames not trained on, by which confidence is made to hold."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of that index.")] = "val",
    size: Annotated[str, typer.Option(help="Input size for it, HEIGHTxWIDTH.")] = "192x640",
) -> None:
    """Write the weights that `export` takes from a checkpoint, an eighth of its size; they export to the same bytes."""
    from sem_depth_training.calibrated_confidence import calibrate_confidence
    from sem_depth_training.data.frames import read_index
    from sem_depth_training.released_weights import release_weights as release

    adjust = None
    if calibrate is not None:
        frames = read_index(calibrate, split)
        adjust = partial(calibrate_confidence, frames=frames, size=_size(size, "--size"), console=Console())
    print(f"{output}: {release(checkpoints, output, adjust)} bytes")


@app.command()
def latency(
    size: Annotated[str, typer.Option(help="Input size, HEIGHTxWIDTH.")] = "192x640",
    threads: Annotated[int, typer.Option(help="Threads of ONNX Runtime.")] = 2,
    runs: Annotated[int, typer.Option(help="Timed runs of each network.")] = 50,
) -> None:
    """Time the compact network in the CPU engine with random weights, under each conditioning."""
    from sem_depth_training.latency import measure_latency
    from sem_depth_training.models.presets import CompactConditioning, compact

    networks = {name: compact(name) for name in get_args(CompactConditioning)}
    height, width = _size(size, "--size")
    if height % 32 or width % 32:
        raise typer.BadParameter(f"--size: expected sides that 32 divides, found {size}")
    for name, latency in measure_latency(networks, height, width, threads, runs).items():
        median, fastest, processor = (1e3 * seconds for seconds in latency)
        print(f"compact, {name}: median {median:.1f} ms, fastest {fastest:.1f} ms, processor time {processor:.1f} ms")


@app.command("comparison-networks")
def comparison_networks(
    output: Annotated[Path, typer.Argument(help="Folder of the ONNX files.")],
    size: Annotated[str, typer.Option(help="Input size, HEIGHTxWIDTH.")] = "192x640",
) -> None:
    """Write networks to compare with, random weights in them, for `sem-depth benchmark --against`; count their cost."""
    from sem_depth_training.comparison_networks import export_comparison_networks

    try:
        for file in export_comparison_networks(output, _size(size, "--size"), Console()):
            print(file)
    except ValueError as error:
        raise typer.BadParameter(f"--size: {error}") from error


@app.command()
def describe(
    preset: Annotated[str, typer.Option(help="compact or paper.")] = "paper",
    size: Annotated[str, typer.Option(help="Image size, HEIGHTxWIDTH.")] = "352x1216",
    conditioning: Annotated[str, typer.Option(help="seecoder, seecoder_pa, clip, none; paper: text too.")] = "seecoder",
    seecoder_size: Annotated[str, typer.Option(help="Size SeeCoder sees at paper size, HEIGHTxWIDTH.")] = "176x608",
) -> None:
    """Count parameters and operations part by part, beside other diffusion depth networks."""
    from sem_depth_training.describe import preset_builder, print_description

    try:
        build = preset_builder(preset, conditioning, _size(seecoder_size, "--seecoder-size"))
    except ValueError as error:
        raise typer.BadParameter(f"--preset, --conditioning: {error}") from error
    title = f"{preset}, {conditioning}"
    if preset == "paper" and conditioning.startswith("seecoder"):
        title += f" at {seecoder_size}"
    print_description(title, build, _size(size, "--size"), Console())


@app.command("full-frame")
def full_frame(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file; its weights go beside it.")],
    image: Annotated[str, typer.Option(help="Of the camera's images, HEIGHTxWIDTH.")],
    intrinsics: Annotated[str, typer.Option(help="fx,fy,cx,cy in pixels.")],
    half: Annotated[bool, typer.Option(help="Depth and confidence come down as float16.")] = False,
    points: Annotated[bool, typer.Option(help="x, y, z come down, too.")] = False,
    compute_capability: Annotated[
        str | None, typer.Option(help="Also compile it with TensorRT-RTX for this GPU, to the .plan beside it.")
    ] = None,
) -> None:
    """Wrap a bundle's graph so that the device does all of a frame: whole image up, metric depth down. Experimental."""
    from sem_depth_node.bundle import ModelBundle
    from sem_depth_node.camera import CameraModel
    from sem_depth_node.engines.tensorrt_build import BuildRequest, build_engine
    from sem_depth_node.engines.watch import BuildWatch
    from sem_depth_training.full_frame import FullFrame, contract, copied_bytes, scale_of, wrap

    numbers = intrinsics.split(",")
    if len(numbers) != 4:
        raise typer.BadParameter(f"--intrinsics: expected fx,fy,cx,cy, found '{intrinsics}'")
    height, width = _size(image, "--image")
    try:
        fx, fy, cx, cy = map(float, numbers)
    except ValueError as error:
        raise typer.BadParameter(f"--intrinsics: {error}; expected fx,fy,cx,cy in pixels") from error
    camera = CameraModel(width, height, fx, fy, cx, cy)
    loaded = ModelBundle.load(bundle)
    size = loaded.nearest_input(width / height)
    settings = FullFrame(camera, *loaded.manifest.depth_range, half=half, points=points)
    wrap(size, settings, output)
    up, down = copied_bytes(height, width, half, points)
    pixels = size.height * size.width
    print(f"{output}: metres_per_canonical is {scale_of(camera, size, loaded.manifest):.6f}")
    print(f"bytes a frame: {up} up, {down} down; the network alone: {3 * pixels} up, {8 * pixels} down")
    if compute_capability is not None:
        request = BuildRequest(
            str(output), size.height, size.width, "tensorrt_rtx", compute_capability, contract=contract(settings)
        )
        report = build_engine(request, output.with_suffix(".plan"), BuildWatch())
        print(f"{output.with_suffix('.plan')}: {report.engine_bytes} bytes in {report.seconds:.1f} s")


@app.command("seecoder-size")
def seecoder_size(
    photographs: Annotated[list[Path], typer.Argument(help="Of different places, at least two.")],
    weights: Annotated[
        Path | None, typer.Option(help="SeeCoder's released .safetensors; without it, random weights.")
    ] = None,
    size: Annotated[str, typer.Option(help="Of the middle bottom of each photograph, HEIGHTxWIDTH.")] = "352x1216",
    sees: Annotated[list[str], typer.Option(help="HEIGHTxWIDTH that SeeCoder sees; repeat for several.")] = [  # noqa: B006
        "352x1216",
        "264x912",
        "176x608",
        "384x384",
        "88x304",
    ],
    position_aware: Annotated[bool, typer.Option(help="SeeCoder-PA.")] = False,
    seed: Annotated[int, typer.Option(help="Of the random weights.")] = 0,
) -> None:
    """Measure what showing SeeCoder a smaller image does to its tokens, against what another image does."""
    from sem_depth_training.check_paper import read_frame
    from sem_depth_training.seecoder_size import print_size_effects, seecoder_of, size_effects

    if len(photographs) < 2:
        raise typer.BadParameter("photographs: expected at least two, of different places")
    frames = [read_frame(path, _size(size, "--size")) for path in photographs]
    sizes = [_size(text, "--sees") for text in sees]
    effects = size_effects(seecoder_of(weights, position_aware, seed), frames, sizes)
    title = f"{len(frames)} photographs of {size}, {weights or f'random weights (seed {seed})'}"
    print_size_effects(effects, title, Console())


@app.command()
def roofline(
    report: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("docs/roofline.md"),
    size: Annotated[str, typer.Option(help="Image size, HEIGHTxWIDTH.")] = "352x1216",
    sees: Annotated[list[str], typer.Option(help="HEIGHTxWIDTH that SeeCoder sees; repeat for several.")] = [  # noqa: B006
        "176x608",
        "88x304",
    ],
) -> None:
    """Estimate the paper-size network's frame times on GPUs that are not here, from its half-precision graph."""
    from sem_depth_training.models.paper import paper_network
    from sem_depth_training.roofline import half_graph, kernels_of, roofline_markdown

    networks = []
    for text in sees:
        seen = _size(text, "--sees")
        graph = half_graph(partial(paper_network, seecoder_size=seen), _size(size, "--size"))
        networks.append((f"{size}, SeeCoder sees {text}", kernels_of(graph)))
    write_whole(report, roofline_markdown(networks, "sem-depth-train roofline"))
    Console().print(f"report: {report}")


@app.command("fetch-weights")
def fetch_weights(
    names: Annotated[list[str], typer.Argument(help="stable-diffusion, seecoder, seecoder-pa, clip.")],
    to: Annotated[Path, typer.Option(help="Folder for downloads and for weights.json, which records them.")] = Path(
        "weights"
    ),
    local: Annotated[list[str], typer.Option(help="NAME=PATH: take these weights from here instead.")] = [],  # noqa: B006
) -> None:
    """Download the public weights of the paper's network, check them, and say which licence each carries."""
    from sem_depth_training.fetch_weights import fetch_weights as fetch

    paths = {name: path for name, _, path in (entry.partition("=") for entry in local)}
    if unknown := [f"{name}={path}" for name, path in paths.items() if name not in names or not path]:
        raise typer.BadParameter(f"expected NAME=PATH with a NAME that is fetched, found {', '.join(unknown)}")
    console = Console()
    for name in names:
        fetched = fetch(name, to, Path(paths[name]) if name in paths else None)
        console.print(f"{name}: {fetched.path}\n  from {fetched.source}\n  licence: {fetched.licence}", markup=False)


@app.command("check-paper")
def check_paper(
    frame: Annotated[Path | None, typer.Option(help="A photograph to check with; without one, a drawn scene.")] = None,
    report: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("docs/check_paper.md"),
    size: Annotated[str, typer.Option(help="Image size, HEIGHTxWIDTH.")] = "352x1216",
    seecoder_size: Annotated[str, typer.Option(help="Size SeeCoder sees, HEIGHTxWIDTH.")] = "176x608",
    conditioning: Annotated[str, typer.Option(help="seecoder, seecoder_pa, clip or none.")] = "seecoder",
    compute_capability: Annotated[str, typer.Option(help="Of the GPU the engine is for.")] = "8.9",
    shrunken: Annotated[bool, typer.Option(help="Every part small: seconds, to try the check itself.")] = False,
    keep: Annotated[Path | None, typer.Option(help="Folder that keeps graphs and engine (10 GB).")] = None,
) -> None:
    """Export the paper-size network with random weights, compare with torch, compile it with TensorRT-RTX."""
    from sem_depth_training.check_paper import PaperCheck, read_frame, report_markdown
    from sem_depth_training.check_paper import check_paper as run

    check = PaperCheck(_size(size, "--size"), _size(seecoder_size, "--seecoder-size"), conditioning, shrunken)
    console = Console()
    result = run(check, read_frame(frame, check.size), compute_capability, keep, console.print)
    command = "sem-depth-train check-paper" + (" --frame PHOTOGRAPH" if frame else "")
    write_whole(report, report_markdown(result, command))
    console.print(f"report: {report}")


def _size(text: str, option: str) -> tuple[int, int]:
    """HEIGHTxWIDTH in pixels."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise typer.BadParameter(f"{option}: expected HEIGHTxWIDTH such as 352x1216, found '{text}'")
    return int(height), int(width)


def main() -> None:
    """Entry point: expected errors are one message and exit code 2."""
    from sem_depth_node.bags.reader import BagError
    from sem_depth_node.bundle import BundleError
    from sem_depth_node.engines.engine import EngineError
    from sem_depth_training.check_paper import PaperCheckError
    from sem_depth_training.checkpoint import TrainingError
    from sem_depth_training.config import ConfigError
    from sem_depth_training.data.frames import DataError
    from sem_depth_training.export import ExportError
    from sem_depth_training.fetch_weights import FetchError
    from sem_depth_training.frost_pictures import FrostError
    from sem_depth_training.full_frame import FullFrameError
    from sem_depth_training.models.checkpoints import CheckpointError
    from sem_depth_training.robustness import RobustnessError

    # Both unwind what is open. A script's background job inherits an ignored SIGINT, so it is set, not left as it is.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        app()
    except (
        BagError,
        BundleError,
        ConfigError,
        CheckpointError,
        DataError,
        EngineError,
        ExportError,
        FetchError,
        FullFrameError,
        FrostError,
        PaperCheckError,
        RobustnessError,
        TrainingError,
    ) as error:
        message = str(error)
    except OSError as error:  # of a file or folder that was named and cannot be written
        if error.filename is None:
            raise
        message = f"{error.filename}: {error.strerror}"
    else:
        return
    Console(stderr=True, soft_wrap=True).print(message, style="red", markup=False, highlight=False)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
