"""A street in Blender's Cycles: colour, exact depth and LiDAR returns from one and the same geometry.

Imports ``bpy`` (GPL) and is only ever imported by :mod:`.worker`, in a process of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt
import OpenEXR  # type: ignore[import-not-found, unused-ignore]
from mathutils import Matrix  # type: ignore[import-not-found, unused-ignore]

from . import models
from .geometry import Geometry, Material
from .layout import PlacedModel, StreetLayout
from .lidar import RingBlock
from .street import lamp_head
from .textures import texture_file
from .views import View
from .weather import Weather

SKY_MAP_COLUMNS = 256
NO_HIT = 1e9  # Cycles writes 1e10 where a ray meets nothing
OPTICAL_TO_BLENDER = np.diag([1.0, -1.0, -1.0, 1.0])  # optical: y down, z forward; Blender: y up, looks along -z


@dataclass(frozen=True)
class Returns:
    """What LiDAR rays met: points (n, 3) in the world, and reflectance times incidence, 0..1 (n,)."""

    points: npt.NDArray[np.float32]
    intensity: npt.NDArray[np.float32]


class CyclesStreet:
    """One Blender session; load a street, then take pictures of it."""

    def __init__(self, model_folder: Path, texture_folder: Path, scratch: Path, *, samples: int, threads: int) -> None:
        self._model_folder, self._texture_folder, self._scratch = model_folder, texture_folder, scratch
        self._samples = samples
        self._meshes: dict[str, Any] = {}  # kept from street to street
        bpy.ops.wm.read_factory_settings(use_empty=True)
        self._scene = bpy.context.scene
        self._sky_scene = bpy.data.scenes.new("sky")
        for scene in (self._scene, self._sky_scene):
            self._configure(scene, threads)
        camera = bpy.data.cameras.new("camera")
        camera.clip_start, camera.clip_end = 0.05, 5000.0
        self._camera = bpy.data.objects.new("camera", camera)
        for scene in (self._scene, self._sky_scene):
            scene.collection.objects.link(self._camera)
            scene.camera = self._camera
        self._placed: dict[PlacedModel, Any] = {}
        self._layout: StreetLayout | None = None
        self.airlight = np.zeros(3, np.float32)  # radiance of the sky at the horizon, set by load

    @staticmethod
    def _configure(scene: Any, threads: int) -> None:
        render, cycles = scene.render, scene.cycles
        render.engine = "CYCLES"
        render.threads_mode, render.threads = "FIXED", threads
        render.resolution_percentage = 100
        render.use_persistent_data = True
        render.image_settings.file_format = "OPEN_EXR_MULTILAYER"
        render.image_settings.color_depth, render.image_settings.exr_codec = "32", "NONE"
        scene.view_settings.view_transform = "Raw"
        cycles.device = "CPU"
        cycles.seed = 0
        cycles.use_adaptive_sampling = False
        cycles.use_light_tree = True
        cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 4, 2, 2
        cycles.transmission_bounces, cycles.transparent_max_bounces = 0, 4
        cycles.caustics_reflective = cycles.caustics_refractive = False
        cycles.sample_clamp_indirect = 4.0
        cycles.denoiser = "OPENIMAGEDENOISE"
        cycles.denoising_input_passes = "RGB_ALBEDO_NORMAL"
        cycles.denoising_prefilter = cycles.denoising_quality = "FAST"

    # --- the street --------------------------------------------------------------------------------------------------

    def load(self, layout: StreetLayout, geometry: Geometry, weather: Weather) -> None:
        """Replace what is loaded by this street under this weather, at time 0."""
        # All at once: each removal looks through everything that is left for users.
        bpy.data.batch_remove([item for item in bpy.data.objects if item is not self._camera])
        kept = set(self._meshes.values())
        bpy.data.batch_remove(
            [*bpy.data.lights, *bpy.data.worlds, *(mesh for mesh in bpy.data.meshes if mesh not in kept)]
        )
        bpy.data.batch_remove([material for material in bpy.data.materials if material.users == 0])
        self._layout = layout
        self._add_geometry(geometry, wet=weather.wet)
        self._placed = {}
        for placed in layout.models:
            item = bpy.data.objects.new(placed.model.name, self._model_mesh(placed.model))
            if placed.paint is not None:
                item.color = (*placed.paint, 1.0)
            self._scene.collection.objects.link(item)
            self._placed[placed] = item
        if weather.night:
            for post in layout.posts:
                if post.kind == "lamp":
                    down = np.eye(4)
                    down[:3, 3] = lamp_head(layout, post) - [0, 0, 0.12]
                    self._spot("lamp", down, watts=900, colour=(1.0, 0.72, 0.42), angle=2.6)
        if weather.headlights:
            self._headlights(strong=weather.night)
        world = make_world(weather)
        self._scene.world = self._sky_scene.world = world
        self.set_time(0.0)
        self.airlight = self._horizon_radiance()

    def set_time(self, time: float) -> None:
        """Move the traffic to ``time`` seconds."""
        assert self._layout is not None, "load a street first"
        present = {id(placed) for placed in self._layout.present(time)}
        for placed, item in self._placed.items():
            item.hide_render = id(placed) not in present
            item.matrix_world = Matrix(self._layout.pose(placed, time).tolist())

    def _add_geometry(self, geometry: Geometry, *, wet: bool) -> None:
        triangles = geometry.triangles()
        names = list(triangles)
        mesh = self._mesh(
            "street",
            np.concatenate([triangles[name][0] for name in names]),
            np.concatenate([triangles[name][1] for name in names]),
            np.repeat(np.arange(len(names)), [len(triangles[name][0]) for name in names]),
            [self._material(geometry.materials[name], wet=wet) for name in names],
        )
        self._scene.collection.objects.link(bpy.data.objects.new("street", mesh))

    def _model_mesh(self, model: models.Model) -> Any:
        """The model's mesh, made once; what it is painted with is its objects' colour."""
        if model.name not in self._meshes:
            parts = models.load(model, self._model_folder)
            self._meshes[model.name] = self._mesh(
                model.name,
                np.concatenate([part.vertices for part in parts]),
                np.concatenate([part.uv for part in parts]),
                np.repeat(np.arange(len(parts)), [len(part.vertices) for part in parts]),
                [model_material(model, part) for part in parts],
                np.concatenate([part.normals for part in parts]),
            )
        return self._meshes[model.name]

    @staticmethod
    def _mesh(
        name: str,
        vertices: npt.NDArray[np.float32],
        uv: npt.NDArray[np.float32],
        material_index: npt.NDArray[np.int64],
        materials: Sequence[Any],
        normals: npt.NDArray[np.float32] | None = None,
    ) -> Any:
        count = len(vertices)
        mesh = bpy.data.meshes.new(name)
        mesh.vertices.add(3 * count)
        mesh.loops.add(3 * count)
        mesh.polygons.add(count)
        mesh.vertices.foreach_set("co", vertices.ravel())
        mesh.loops.foreach_set("vertex_index", np.arange(3 * count, dtype=np.int32))
        mesh.polygons.foreach_set("loop_start", np.arange(0, 3 * count, 3, dtype=np.int32))
        mesh.polygons.foreach_set("material_index", material_index.astype(np.int32))
        mesh.uv_layers.new(name="uv").data.foreach_set("uv", uv.ravel())
        mesh.update(calc_edges=True)
        if normals is not None:
            mesh.normals_split_custom_set(normals.reshape(-1, 3))
        for material in materials:
            mesh.materials.append(material)
        return mesh

    def _material(self, look: Material, *, wet: bool) -> Any:
        material, shader, nodes = _principled(look.name)
        shader.inputs["Roughness"].default_value = look.roughness
        shader.inputs["Metallic"].default_value = look.metallic
        shader.inputs["Specular IOR Level"].default_value = look.specular
        shader.inputs["Base Color"].default_value = (*look.colour, 1.0)
        colour = None
        if look.texture:
            image = nodes.nodes.new("ShaderNodeTexImage")
            image.image = bpy.data.images.load(
                str(texture_file(*look.texture, self._texture_folder)), check_existing=True
            )
            colour = _multiply(nodes, image.outputs["Color"], look.colour)
            if look.mottled:
                colour = _multiply(nodes, colour, _noise(nodes, scale=0.12, low=0.8, high=1.2))
            nodes.links.new(colour, shader.inputs["Base Color"])
        if look.emission:
            shader.inputs["Emission Strength"].default_value = look.emission
            if colour is None:
                shader.inputs["Emission Color"].default_value = (*look.colour, 1.0)
            else:
                nodes.links.new(colour, shader.inputs["Emission Color"])
        if wet and look.wettable:
            puddles = _noise(nodes, scale=0.5, low=0.05, high=0.5, from_low=0.4, from_high=0.65)
            nodes.links.new(puddles, shader.inputs["Roughness"])
            shader.inputs["Specular IOR Level"].default_value = 0.6
        return material

    def _headlights(self, *, strong: bool) -> None:
        """Lamps on everything that drives; they follow their car."""
        assert self._layout is not None
        section = self._layout.section
        for placed, item in list(self._placed.items()):
            model = placed.model
            parked = abs(placed.offset) > section.half_width - section.parking
            if parked or model.kind not in ("car", "van", "heavy"):
                continue
            for side in (-0.6, 0.6):
                for x, colour, power in (
                    (model.length / 2, (1, 0.95, 0.85), 40.0),
                    (-model.length / 2, (1, 0.02, 0.01), 6.0),
                ):
                    lamp = bpy.data.objects.new("lens", self._lens(colour, power))
                    lamp.parent = item
                    lamp.location = (x + np.sign(x) * 0.02, side * model.width / 2 * 1.2, 0.68)
                    self._scene.collection.objects.link(lamp)
                if strong:
                    front = np.array(
                        [
                            [0, 0, -1, model.length / 2 + 0.08],
                            [-1, 0, 0, side * model.width / 2 * 1.2],
                            [0, 1, 0, 0.68],
                            [0, 0, 0, 1.0],
                        ]
                    )
                    self._spot("head", front, watts=300, colour=(1, 0.95, 0.85), angle=1.0).parent = item

    def _lens(self, colour: tuple[float, float, float], power: float) -> Any:
        key = f"lens {colour}"
        if key not in self._meshes:
            geometry = Geometry()
            look = Material(f"lens{colour}", colour, emission=power)
            geometry.box(look, (0, 0, 0), (0.03, 0.16, 0.1))
            vertices, uv = geometry.triangles()[look.name]
            self._meshes[key] = self._mesh(
                "lens", vertices, uv, np.zeros(len(vertices), np.int64), [self._material(look, wet=False)]
            )
        return self._meshes[key]

    def _spot(
        self, name: str, pose: npt.NDArray[np.float64], *, watts: float, colour: Sequence[float], angle: float
    ) -> Any:
        light = bpy.data.lights.new(name, "SPOT")
        light.energy, light.color, light.spot_size, light.spot_blend, light.shadow_soft_size = (
            watts,
            colour,
            angle,
            0.65,
            0.15,
        )
        item = bpy.data.objects.new(name, light)
        item.matrix_world = Matrix(pose.tolist())
        self._scene.collection.objects.link(item)
        return item

    def shine_ego_headlights(self, camera_pose: npt.NDArray[np.float64]) -> None:
        """Two low beams below and beside the camera, instead of those of the last view."""
        for item in [item for item in self._scene.objects if item.name.startswith("ego")]:
            bpy.data.objects.remove(item)
        for side in (-0.6, 0.6):
            pose = camera_pose @ OPTICAL_TO_BLENDER
            pose = pose @ np.array([[1, 0, 0, side], [0, 1, 0, -0.9], [0, 0, 1, -1.8], [0, 0, 0, 1.0]])
            self._spot("ego", pose, watts=2500, colour=(1, 0.95, 0.85), angle=0.95)

    # --- pictures ----------------------------------------------------------------------------------------------------

    def colour(self, view: View) -> npt.NDArray[np.float32]:
        """Linear radiance (H, W, 3), denoised."""
        self._aim(view)
        cycles, layer = self._scene.cycles, self._scene.view_layers[0]
        cycles.samples, cycles.use_denoising = self._samples, True
        cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 1.5
        cycles.max_bounces = 4
        layer.use_pass_z = layer.use_pass_position = layer.use_pass_normal = layer.use_pass_diffuse_color = False
        return self._render(self._scene)["Combined"][..., :3]

    def depth(self, view: View) -> npt.NDArray[np.float32]:
        """Metres along the optical axis through every pixel's centre (H, W), +Inf where the ray meets nothing."""
        self._aim(view)
        self._exact(depth=True)
        z = self._render(self._scene)["Depth"][..., 0]
        return np.where(z < NO_HIT, z, np.inf).astype(np.float32)

    def lidar(
        self,
        pose: npt.NDArray[np.float64],
        block: RingBlock,
        half_angle: float,
        columns: int,
        zero: tuple[float, float] = (0.0, 0.0),
    ) -> Returns:
        """Cast the rays of a ring block from ``pose`` (world from LiDAR, 4x4; x forward, z up).

        ``columns`` azimuths, equally spaced, from ``half_angle`` (radians) on the left to as much on the right.
        ``zero`` moves all rays, to the right and up, by shares of the sector and of the block's height.
        """
        camera = self._camera.data
        top, bottom, rings = np.radians(block.top), np.radians(block.bottom), block.rings
        left, right = half_angle, -half_angle
        step_v, step_h = (top - bottom) / (rings - 1), (left - right) / (columns - 1)
        camera.shift_x, camera.shift_y = zero
        camera.type, camera.panorama_type = "PANO", "EQUIRECTANGULAR"
        camera.latitude_min, camera.latitude_max = bottom - step_v / 2, top + step_v / 2
        # Cycles counts longitude to the right.
        camera.longitude_min, camera.longitude_max = -left - step_h / 2, -right + step_h / 2
        optical = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
        self._camera.matrix_world = Matrix((pose @ optical @ OPTICAL_TO_BLENDER).tolist())
        self._resize(self._scene, columns, rings)
        self._exact(depth=True, surface=True)
        passes = self._render(self._scene)
        camera.type = "PERSP"
        hit = passes["Depth"][..., 0] < NO_HIT
        points = passes["Position"][hit]
        rays = pose[:3, 3].astype(np.float32) - points
        facing = np.abs((passes["Normal"][hit] * rays).sum(-1)) / np.maximum(np.linalg.norm(rays, axis=-1), 1e-6)
        albedo = passes["DiffCol"][hit].mean(-1)
        return Returns(points, np.clip(albedo * (0.3 + 0.7 * facing), 0, 1).astype(np.float32))

    def _horizon_radiance(self) -> npt.NDArray[np.float32]:
        """Mean radiance (3,) of the sky just above the horizon: the colour of the air between here and there."""
        camera = self._camera.data
        camera.type, camera.panorama_type = "PANO", "EQUIRECTANGULAR"
        camera.shift_x = camera.shift_y = 0.0
        camera.latitude_min, camera.latitude_max = 0.0, float(np.radians(8))
        camera.longitude_min, camera.longitude_max = -np.pi, np.pi
        upright = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]]) @ OPTICAL_TO_BLENDER
        self._camera.matrix_world = Matrix(upright.tolist())
        self._resize(self._sky_scene, 64, 4)
        self._sky_scene.cycles.samples, self._sky_scene.cycles.use_denoising = 4, False
        image = self._render(self._sky_scene)["Combined"][..., :3]
        camera.type = "PERSP"
        return np.median(image.reshape(-1, 3), 0).astype(np.float32)

    def _exact(self, *, depth: bool, surface: bool = False) -> None:
        """One ray through the middle of each pixel."""
        cycles, layer = self._scene.cycles, self._scene.view_layers[0]
        cycles.samples, cycles.use_denoising = 1, False
        cycles.pixel_filter_type, cycles.filter_width = "BOX", 0.01
        cycles.max_bounces = 0
        layer.use_pass_z = depth
        layer.use_pass_position = layer.use_pass_normal = layer.use_pass_diffuse_color = surface

    def _aim(self, view: View) -> None:
        camera = self._camera.data
        camera.type, camera.sensor_fit, camera.sensor_width = "PERSP", "HORIZONTAL", 36.0
        camera.lens = view.focal / view.width * 36.0
        # (0, 0) is the centre of the top-left pixel, so the middle of the picture is at (width - 1) / 2.
        camera.shift_x = ((view.width - 1) / 2 - view.cx) / view.width
        camera.shift_y = (view.cy - (view.height - 1) / 2) / view.width
        self._camera.matrix_world = Matrix((view.pose @ OPTICAL_TO_BLENDER).tolist())
        self._resize(self._scene, view.width, view.height)

    @staticmethod
    def _resize(scene: Any, width: int, height: int) -> None:
        scene.render.resolution_x, scene.render.resolution_y = width, height

    def _render(self, scene: Any) -> dict[str, npt.NDArray[np.float32]]:
        path = self._scratch / f"{scene.name}.exr"
        scene.render.filepath = str(path)
        bpy.ops.render.render(write_still=True, scene=scene.name)
        passes: dict[str, dict[str, npt.NDArray[np.float32]]] = defaultdict(dict)
        with OpenEXR.File(str(path), separate_channels=True) as content:
            for name, channel in content.channels().items():  # "ViewLayer.Depth.Z" and alike
                _, render_pass, component = name.split(".")
                passes[render_pass][component] = np.array(channel.pixels)
        order = "RGBAXYZV"
        return {
            name: np.stack([part[key] for key in sorted(part, key=order.index)], -1) for name, part in passes.items()
        }


def _principled(name: str) -> tuple[Any, Any, Any]:
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    return material, material.node_tree.nodes["Principled BSDF"], material.node_tree


def _multiply(nodes: Any, colour: Any, factor: Any) -> Any:
    node = nodes.nodes.new("ShaderNodeVectorMath")
    node.operation = "MULTIPLY"
    nodes.links.new(colour, node.inputs[0])
    if isinstance(factor, tuple):
        node.inputs[1].default_value = factor
    else:
        nodes.links.new(factor, node.inputs[1])
    return node.outputs[0]


def _noise(nodes: Any, *, scale: float, low: float, high: float, from_low: float = 0.0, from_high: float = 1.0) -> Any:
    noise = nodes.nodes.new("ShaderNodeTexNoise")
    noise.inputs["Scale"].default_value, noise.inputs["Detail"].default_value = scale, 4
    position = nodes.nodes.new("ShaderNodeNewGeometry")
    nodes.links.new(position.outputs["Position"], noise.inputs["Vector"])
    remap = nodes.nodes.new("ShaderNodeMapRange")
    for name, value in (("From Min", from_low), ("From Max", from_high), ("To Min", low), ("To Max", high)):
        remap.inputs[name].default_value = value
    nodes.links.new(noise.outputs[0], remap.inputs["Value"])
    return remap.outputs[0]


def model_material(model: models.Model, part: models.Part) -> Any:
    """Look of a model's part: car bodies take their object's colour, glass is dark and closed (as by day)."""
    material, shader, nodes = _principled(f"{model.name}/{part.material}")
    name = part.material.lower()
    inputs = shader.inputs
    inputs["Roughness"].default_value, inputs["Specular IOR Level"].default_value = 0.55, 0.4
    inputs["Base Color"].default_value = (*part.colour, 1.0)
    if part.opacity < 0.97 or "glass" in name:
        inputs["Base Color"].default_value = (0.015, 0.018, 0.02, 1.0)
        inputs["Roughness"].default_value, inputs["Specular IOR Level"].default_value = 0.04, 0.9
    elif model.paint and part.material == model.paint:
        nodes.links.new(nodes.nodes.new("ShaderNodeObjectInfo").outputs["Color"], inputs["Base Color"])
        inputs["Roughness"].default_value = 0.35
        inputs["Coat Weight"].default_value, inputs["Coat Roughness"].default_value = 1.0, 0.03
    elif "chrome" in name:
        inputs["Metallic"].default_value, inputs["Roughness"].default_value = 1.0, 0.18
    elif part.texture is not None:
        image = nodes.nodes.new("ShaderNodeTexImage")
        image.image = bpy.data.images.load(str(part.texture), check_existing=True)
        # Leaves have no light shining through them here; brighter ones make up for it.
        brightness = 1.6 if model.kind in ("tree", "hedge") else 1.0
        nodes.links.new(_multiply(nodes, image.outputs["Color"], (brightness,) * 3), inputs["Base Color"])
    if model.kind in ("tree", "hedge"):
        inputs["Roughness"].default_value, inputs["Specular IOR Level"].default_value = 0.8, 0.15
    return material


def make_world(weather: Weather) -> Any:
    """The sky: Nishita's model with clouds by day and dusk, an even grey under closed clouds, near black at night."""
    world = bpy.data.worlds.new("sky")
    world.use_nodes = True
    # Where light comes from, which Cycles looks for anew in every rendering: its own choice for this sky is
    # a far larger map, which took longer than the picture. The sun is sampled apart from it.
    world.cycles.sampling_method, world.cycles.sample_map_resolution = "MANUAL", SKY_MAP_COLUMNS
    nodes = world.node_tree
    background = nodes.nodes["Background"]
    direction = nodes.nodes.new("ShaderNodeTexCoord").outputs["Generated"]
    split = nodes.nodes.new("ShaderNodeSeparateXYZ")
    nodes.links.new(direction, split.inputs[0])
    if weather.night or weather.grey_sky:
        ramp = nodes.nodes.new("ShaderNodeValToRGB")
        nodes.links.new(split.outputs["Z"], ramp.inputs[0])
        low, high = (
            ((0.02, 0.018, 0.016, 1), (0.004, 0.005, 0.01, 1))
            if weather.night
            else ((0.62, 0.63, 0.64, 1), (0.84, 0.86, 0.89, 1))
        )
        ramp.color_ramp.elements[0].color, ramp.color_ramp.elements[1].color = low, high
        colour = ramp.outputs[0]
        if weather.grey_sky and weather.condition != "fog":
            noise = nodes.nodes.new("ShaderNodeTexNoise")
            noise.noise_dimensions = "4D"
            noise.inputs["W"].default_value = weather.sun_azimuth * 7
            noise.inputs["Scale"].default_value, noise.inputs["Detail"].default_value = 3.0, 6
            nodes.links.new(direction, noise.inputs["Vector"])
            remap = nodes.nodes.new("ShaderNodeMapRange")
            remap.inputs["To Min"].default_value, remap.inputs["To Max"].default_value = 0.7, 1.25
            nodes.links.new(noise.outputs[0], remap.inputs["Value"])
            colour = _multiply(nodes, colour, remap.outputs[0])
        nodes.links.new(colour, background.inputs["Color"])
        return world
    background.inputs["Strength"].default_value = 0.2 if weather.condition == "dusk" else 0.1
    sky = nodes.nodes.new("ShaderNodeTexSky")
    sky.sky_type = "NISHITA"
    sky.sun_elevation, sky.sun_rotation = weather.sun_elevation, weather.sun_azimuth
    sky.dust_density, sky.sun_size, sky.altitude = 1.5, float(np.radians(1.0)), 100.0
    colour = sky.outputs[0]
    if weather.clouds > 0:
        # Clouds lie in a plane above: divide the direction by its (lifted) height.
        lifted = nodes.nodes.new("ShaderNodeMath")
        lifted.operation = "ADD"
        lifted.inputs[1].default_value = 0.12
        nodes.links.new(split.outputs["Z"], lifted.inputs[0])
        plane = nodes.nodes.new("ShaderNodeVectorMath")
        plane.operation = "DIVIDE"
        nodes.links.new(direction, plane.inputs[0])
        nodes.links.new(lifted.outputs[0], plane.inputs[1])
        noise = nodes.nodes.new("ShaderNodeTexNoise")
        noise.noise_dimensions = "4D"
        noise.inputs["W"].default_value = weather.sun_azimuth * 7
        noise.inputs["Scale"].default_value, noise.inputs["Detail"].default_value = 0.8, 8
        noise.inputs["Roughness"].default_value = 0.58
        nodes.links.new(plane.outputs[0], noise.inputs["Vector"])
        cover = nodes.nodes.new("ShaderNodeMapRange")
        cover.interpolation_type = "SMOOTHSTEP"
        cover.inputs["From Min"].default_value = 0.68 - 0.35 * weather.clouds
        cover.inputs["From Max"].default_value = 0.85 - 0.3 * weather.clouds
        nodes.links.new(noise.outputs[0], cover.inputs["Value"])
        mix = nodes.nodes.new("ShaderNodeMix")
        mix.data_type = "RGBA"
        brightness = 3.0 + 0.1 * float(np.degrees(weather.sun_elevation))
        nodes.links.new(cover.outputs[0], mix.inputs[0])
        nodes.links.new(colour, mix.inputs[6])
        mix.inputs[7].default_value = (brightness * 1.04, brightness * 1.02, brightness, 1)
        colour = mix.outputs[2]
    nodes.links.new(colour, background.inputs["Color"])
    return world
