"""``sem-depth-train render``: many street frames by seed, in worker processes, resumable at any moment."""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..whole_file import write_whole
from . import models
from .drive import DrivePlan
from .frames import FramePlan, row_path, write_index
from .road import Style

DEFAULT_CACHE = Path.home() / ".cache" / "sem_depth" / "streets"
INDEX_EVERY = 10  # frames between updates of index.csv
FRAMES_PER_PROCESS = 600  # then a fresh Blender: its memory grows a little with every street


class RenderError(RuntimeError):
    """Rendering cannot go on; the text says why and what to do."""


def render(
    frames: Annotated[int, typer.Option(min=1, help="Frames in the set; those already there are kept.")],
    out: Annotated[Path, typer.Option(help="Folder of the set: index.csv, and shards of a thousand frames.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes; each uses one core and about 2 GB.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the whole set; frame N of a seed is always the same.")] = 0,
    style: Annotated[
        Style | None,
        typer.Option(help="Of all streets; left out: city, residential, country and highway in fixed shares."),
    ] = None,
    cache: Annotated[Path, typer.Option(help="Where models and textures are kept between runs.")] = DEFAULT_CACHE,
    python: Annotated[
        Path,
        typer.Option(
            help="Python with the extra 'render' of sem_depth_training (bpy, GPL); may be another environment."
        ),
    ] = Path(sys.executable),
) -> None:
    """Render street scenes with exact depth and sky masks for training (colour, depth, sky, index.csv)."""
    try:
        render_set(frames, out, workers, seed, cache, python, style)
    except (RenderError, models.ModelError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def render_set(
    frames: int, out: Path, workers: int, seed: int, cache: Path, python: Path, style: Style | None = None
) -> None:
    """Render what is missing of frames 0..``frames`` - 1; ``index.csv`` is up to date every few frames.

    Raises :class:`RenderError` where ``python`` has no bpy, ``out`` holds another seed or style, or a worker fails.
    """
    require_bpy(python)
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, seed, style)
    _stop_on_sigterm()
    models.fetch(cache)
    write_whole(out / "ATTRIBUTION.txt", "\n".join(models.attributions()) + "\n")
    plans = [FramePlan.sample(seed, number, style) for number in range(frames)]
    missing = [plan.number for plan in plans if not row_path(out, plan).exists()]
    columns = (TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("frames", total=frames, completed=frames - len(missing))
        try:
            job = Job("frames", out, seed, cache, python, style)
            for finished, _ in enumerate(run_workers(job, missing, workers, FRAMES_PER_PROCESS), 1):
                progress.advance(task)
                if finished % INDEX_EVERY == 0:
                    write_index(out)
        finally:
            write_index(out)


def render_drive(
    out: Annotated[Path, typer.Option(help="The rosbag2 folder to make.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes; each uses one core and about 2 GB.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the street; the demo drive is seed 0.")] = 0,
    cache: Annotated[Path, typer.Option(help="Where models and textures are kept between runs.")] = DEFAULT_CACHE,
    python: Annotated[Path, typer.Option(help="Python that has bpy, as for render.")] = Path(sys.executable),
) -> None:
    """Render a drive with camera and simulated LiDAR into a rosbag2 (mcap); seed 0 is the demo that ships."""
    from .drive_bag import write_drive  # needs rosbags, which rendering training frames does not

    try:
        if out.exists():
            raise RenderError(f"{out} exists; choose another folder or remove it")
        require_bpy(python)
        models.fetch(cache)
        plan = replace(DrivePlan(), seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            rendered = Path(folder)
            columns = (
                TextColumn("frames"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            with Progress(*columns) as progress:
                task = progress.add_task("frames", total=plan.frames)
                for _ in run_workers(
                    Job("drive", rendered, seed, cache, python), range(plan.frames), workers, -(-plan.frames // workers)
                ):
                    progress.advance(task)
            write_drive(out, plan, rendered)
    except (RenderError, models.ModelError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def require_bpy(python: Path) -> None:
    command = [str(python), "-c", "import bpy, OpenEXR"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["it does not start"])[-1]
        raise RenderError(
            f"{python} cannot import what rendering needs ({reason}); "
            "install sem_depth_training[render] there, or name another with --python"
        )


def _stop_on_sigterm() -> None:
    """Let ``kill`` stop us as Ctrl-C does: workers ended, index written."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)


def _claim(out: Path, seed: int, style: Style | None) -> None:
    path = out / "seed.json"
    claimed = {"seed": seed} if style is None else {"seed": seed, "style": style}
    if not path.exists():
        write_whole(path, json.dumps(claimed) + "\n")
    elif (there := json.loads(path.read_text())) != claimed:
        raise RenderError(f"{out} holds frames of {there}, not of {claimed}; choose those options or another folder")


@dataclass(frozen=True)
class Job:
    """What worker processes do: ``task`` is "frames" or "drive"; see :mod:`.worker`."""

    task: str
    out: Path
    seed: int
    cache: Path
    python: Path
    style: Style | None = None

    def command(self, numbers: Sequence[int]) -> list[str]:
        options = ["--out", str(self.out), "--cache", str(self.cache), "--seed", str(self.seed)]
        if self.style is not None:
            options += ["--style", self.style]
        module = "sem_depth_training.streets.worker"
        return [str(self.python), "-m", module, self.task, *options, "--numbers", ",".join(map(str, numbers))]


def run_workers(job: Job, numbers: Sequence[int], workers: int, batch: int) -> Iterator[int]:
    """Yield frame numbers as they are done, ``batch`` to a process.

    Workers are ended with us; should we be killed outright, each ends after its frame, on the broken pipe.
    """
    batches: queue.SimpleQueue[Sequence[int]] = queue.SimpleQueue()
    for start in range(0, len(numbers), batch):
        batches.put(numbers[start : start + batch])
    done: queue.SimpleQueue[int | Exception | None] = queue.SimpleQueue()
    running: list[subprocess.Popen[str]] = []
    stopping = threading.Event()

    def work(core: int) -> None:
        # The processes that a thread starts inherit its core. With more of them in reach, Blender keeps a thread on
        # each, spinning while the one that renders has work: half of two cores went into that.
        os.sched_setaffinity(0, {core})
        try:
            while not stopping.is_set():
                _run_batch(job, batches.get_nowait(), done, running)
            done.put(None)
        except queue.Empty:
            done.put(None)
        except Exception as error:
            done.put(error)

    cores = itertools.cycle(sorted(os.sched_getaffinity(0)))
    threads = [threading.Thread(target=work, args=(next(cores),), daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(workers):
            while (item := done.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
    finally:
        stopping.set()
        for process in running:
            process.terminate()
        for thread in threads:
            thread.join(timeout=30)


def _run_batch(
    job: Job,
    numbers: Sequence[int],
    done: queue.SimpleQueue[int | Exception | None],
    running: list[subprocess.Popen[str]],
) -> None:
    log = job.out / f"worker-{numbers[0]:06d}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            job.command(numbers), stdout=subprocess.PIPE, stderr=errors, text=True, env=_worker_environment()
        )
        running.append(process)
        assert process.stdout is not None
        for line in process.stdout:  # Blender talks there too
            if line.startswith('{"done"'):
                done.put(int(json.loads(line)["done"]))
        status = process.wait()
    if status == -signal.SIGTERM:  # we stop
        return
    if status:
        tail = "\n".join(log.read_text().strip().splitlines()[-5:])
        raise RenderError(
            f"the worker for frames {numbers[0]} to {numbers[-1]} failed (exit {status}); {log} ends with:\n{tail}"
        )
    log.unlink()


def _worker_environment() -> dict[str, str]:
    """Ours, with this package importable: the worker's Python may be one where it is not installed."""
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
