"""Files of a rendered set: the index the training reads, the counts of the depth images, resuming."""

import csv
import subprocess
import sys

import cv2
import numpy as np
import pytest

from sem_depth_training.streets import models
from sem_depth_training.streets.frames import COLUMNS, FramePlan, row_path, write_frame, write_index
from sem_depth_training.streets.render import RenderError, render_set
from sem_depth_training.streets.road import STYLES
from sem_depth_training.streets.weather import CONDITIONS, add_air, sample_weather

DRIVING_COLUMNS = [
    "split", "sequence", "camera", "image", "depth", "fx", "fy", "cx", "cy", "width", "height", "gt_kind", "licence",
]  # fmt: skip


def written(folder, number=7):
    plan = FramePlan.sample(3, number)
    view = plan.view(plan.street.layout())
    rng = np.random.default_rng(number)
    image = rng.integers(0, 255, (view.height, view.width, 3), dtype=np.uint8)
    depth = rng.uniform(2, 400, (view.height, view.width)).astype(np.float32)
    depth[:20] = np.inf
    write_frame(folder, plan, view, image, depth)
    return plan, view, image, depth


def test_index_has_the_columns_of_driving_data_and_the_sky(tmp_path):
    _, view, _, depth = written(tmp_path)
    assert write_index(tmp_path) == 1
    with (tmp_path / "index.csv").open() as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == [*DRIVING_COLUMNS, "sky"] == list(COLUMNS)
        (row,) = list(reader)
    assert (row["split"], row["gt_kind"]) == ("train", "dense")
    assert (int(row["width"]), int(row["height"])) == (view.width, view.height)
    np.testing.assert_allclose([float(row["fx"]), float(row["cx"])], [view.focal, view.cx], atol=1e-4)
    counts = cv2.imread(str(tmp_path / row["depth"]), cv2.IMREAD_UNCHANGED)
    sky = cv2.imread(str(tmp_path / row["sky"]), cv2.IMREAD_UNCHANGED)
    assert counts.dtype == np.uint16
    assert counts.shape == sky.shape == (view.height, view.width)
    np.testing.assert_array_equal(sky > 0, np.isinf(depth))
    near = depth < 254.9
    np.testing.assert_allclose(counts[near] / 256, depth[near], atol=1 / 512 + 1e-4)
    assert not counts[depth > 255].any()
    assert cv2.imread(str(tmp_path / row["image"])).shape == (view.height, view.width, 3)


def test_plans_follow_the_seed_and_vary():
    assert FramePlan.sample(1, 5) == FramePlan.sample(1, 5)
    assert FramePlan.sample(1, 5) != FramePlan.sample(2, 5)
    plans = [FramePlan.sample(0, number) for number in range(300)]
    assert {plan.street.style for plan in plans} == set(STYLES) - {"wooded", "junction"}
    assert {plan.street.weather.condition for plan in plans} == set(CONDITIONS)
    layouts = {plan.street.seed: plan.street.layout() for plan in plans[:36]}
    views = [plan.view(layouts[plan.street.seed]) for plan in plans[:36]]
    slopes = [view.focal / view.width for view in views]
    assert min(slopes) < 0.55
    assert max(slopes) > 0.9
    heights = [view.pose[2, 3] for view in views]
    assert max(heights) - min(heights) > 0.8
    assert any(view.width / view.height == pytest.approx(1.5) for view in views)


def test_an_unfinished_frame_is_not_in_the_index(tmp_path):
    plan, *_ = written(tmp_path, 1)
    written(tmp_path, 2)
    row_path(tmp_path, plan).unlink()  # as after a kill between the pictures and the row
    assert write_index(tmp_path) == 1
    assert plan.name not in (tmp_path / "index.csv").read_text()


def test_a_python_without_blender_is_named(tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'ModuleNotFoundError: No module named bpy' >&2\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(RenderError, match=r"No module named bpy.*sem_depth_training\[render\]"):
        render_set(1, tmp_path / "out", 1, 0, tmp_path, fake)


STAND_IN = """#!{python}
import json, pathlib, sys
if sys.argv[1] == "-c":
    sys.exit(0)
options = dict(zip(sys.argv[4::2], sys.argv[5::2]))
out = pathlib.Path(options["--out"])
(out / "command.txt").write_text(" ".join(sys.argv))
with (out / "asked.txt").open("a") as file:
    file.write(options["--numbers"] + ",")
print("Fra:1 Mem:9M | Blender talks here too")
for number in options["--numbers"].split(","):
    if (out / "fail").exists():
        print("Blender ran out of everything", file=sys.stderr)
        sys.exit(3)
    folder = out / f"{{int(number) // 1000:03d}}"
    folder.mkdir(exist_ok=True)
    (folder / f"s0_{{int(number):06d}}.row").write_text(f"row {{number}}\\n")
    print(json.dumps({{"done": int(number)}}), flush=True)
"""


@pytest.fixture
def stand_in(tmp_path):
    """A Python that answers as the worker does, without Blender: what is tested is who asks it for what."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "complete").touch()
    path = tmp_path / "python"
    path.write_text(STAND_IN.format(python=sys.executable))
    path.chmod(0o755)
    return path


def test_a_second_run_renders_only_what_is_missing(tmp_path, stand_in):
    out = tmp_path / "out"
    render_set(130, out, 3, 0, tmp_path, stand_in)
    asked = sorted(int(number) for number in (out / "asked.txt").read_text().split(",")[:-1])
    assert asked == list(range(130))
    (out / "000" / "s0_000017.row").unlink()
    (out / "asked.txt").unlink()
    render_set(132, out, 2, 0, tmp_path, stand_in)
    assert (out / "asked.txt").read_text() == "17,130,131,"
    lines = (out / "index.csv").read_text().splitlines()
    assert lines == [",".join(COLUMNS), *(f"row {number}" for number in range(132))]
    assert "Scopia" in (out / "ATTRIBUTION.txt").read_text()


def test_a_failing_worker_is_reported_with_its_last_words(tmp_path, stand_in):
    out = tmp_path / "out"
    out.mkdir()
    (out / "fail").touch()
    with pytest.raises(
        RenderError, match=r"frames 0 to 4 failed \(exit 3\).*worker-000000.log(.|\n)*ran out of everything"
    ):
        render_set(5, out, 1, 0, tmp_path, stand_in)


def test_two_sets_do_not_mix_in_one_folder(tmp_path, stand_in):
    out = tmp_path / "out"
    render_set(1, out, 1, 4, tmp_path, stand_in)
    render_set(2, out, 1, 4, tmp_path, stand_in)
    with pytest.raises(RenderError, match=r"'seed': 4\}, not of \{'seed': 5\}"):
        render_set(2, out, 1, 5, tmp_path, stand_in)
    with pytest.raises(RenderError, match=r"not of \{'seed': 4, 'style': 'wooded'\}"):
        render_set(2, out, 1, 4, tmp_path, stand_in, style="wooded")


def test_a_style_is_rendered_where_it_is_asked_for(tmp_path, stand_in):
    assert {FramePlan.sample(4, number, "wooded").street.style for number in range(30)} == {"wooded"}
    out = tmp_path / "out"
    render_set(2, out, 1, 4, tmp_path, stand_in, style="wooded")
    assert "--style wooded" in (out / "command.txt").read_text()
    (out / "command.txt").unlink()
    render_set(1, tmp_path / "mixed", 1, 4, tmp_path, stand_in)
    assert "--style" not in (tmp_path / "mixed" / "command.txt").read_text()


def test_every_model_has_an_author_and_a_licence():
    lines = models.attributions()
    assert len(lines) == len(models.MODELS) == len(models.BY_NAME)
    assert all("CC" in line for line in lines)


def test_fog_has_the_colour_of_the_sky():
    airlight = np.array([0.6, 0.62, 0.64], np.float32)
    scene = np.random.default_rng(0).uniform(0, 1, (4, 5, 3)).astype(np.float32)
    elevation = np.zeros((4, 5), np.float32)
    far = add_air(scene, np.full((4, 5), 5000, np.float32), elevation, airlight, visibility=100.0)
    np.testing.assert_allclose(far, np.broadcast_to(airlight, far.shape), rtol=1e-4)
    near = add_air(scene, np.full((4, 5), 0.0, np.float32), elevation, airlight, visibility=100.0)
    np.testing.assert_allclose(near, scene, rtol=1e-5)
    # Koschmieder: 2 % of the contrast is left at the visibility.
    at_limit = add_air(scene, np.full((4, 5), 100.0, np.float32), elevation, airlight, visibility=100.0)
    np.testing.assert_allclose(at_limit - airlight, 0.02 * (scene - airlight), atol=1e-4)


def test_weather_follows_its_generator():
    first, again = (sample_weather(np.random.default_rng(9)) for _ in range(2))
    assert first == again


def test_the_training_package_does_not_import_blender():
    command = "import sys, sem_depth_training.streets.render; assert not {'bpy', 'mathutils'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
