"""Package metadata, read by colcon (ament_python) on a robot and by pip where there is no ROS distribution."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "sem_depth_node"
HERE = Path(__file__).parent


def share(folder: str) -> list[tuple[str, list[str]]]:
    """`data_files` entries that put every file below `folder` under share/sem_depth_node/."""
    root = Path(folder)  # relative: setuptools refuses absolute data files
    folders = sorted({path.parent for path in (HERE / root).rglob("*") if path.is_file()})
    return [
        (
            f"share/{PACKAGE}/{found.relative_to(HERE)}",
            sorted(str(path.relative_to(HERE)) for path in found.iterdir() if path.is_file()),
        )
        for found in folders
    ]


setup(
    name=PACKAGE,
    version="0.1.0",
    description="Metric depth images and point clouds from one camera, by a diffusion depth network.",
    license="Apache-2.0 AND CC-BY-NC-SA-3.0 AND CC0-1.0",  # code, weights, demo drive
    maintainer="sem_depth maintainers",
    maintainer_email="maintainers@sem-depth.example",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        *share("launch"),
        *share("config"),
        *share("rviz"),
        *share("models"),
        *share("demo"),
    ],
    python_requires=">=3.10",
    install_requires=[
        "numpy>=1.21",
        "opencv-python-headless>=4.5,<5",
        "pydantic>=2.6",
        "rich>=13",
        "typer>=0.12",
    ],
    extras_require={
        # The engines for machines without an NVIDIA GPU: one that runs everywhere, and one that is faster on x86.
        "cpu": ["onnxruntime>=1.17", "openvino>=2024.4; sys_platform == 'linux' and platform_machine == 'x86_64'"],
        # The CUDA runtime bindings; TensorRT itself comes with JetPack or NVIDIA's packages.
        "tensorrt": ["cuda-bindings>=12.9.1"],  # older ones hold Python's lock while they wait for the GPU
        # TensorRT for RTX: builds engines without a GPU, runs them on RTX cards.
        "tensorrt-rtx": ["cuda-bindings>=12.9.1", "tensorrt-rtx-cu12>=1.2"],
        # Reading and writing rosbags, and pictures of the results.
        "bags": ["matplotlib>=3.7", "mcap>=1.1", "rosbags>=0.11.6"],
        # Reading the Waymo Open Dataset.
        "waymo": ["mcap>=1.1", "pyarrow>=12", "rosbags>=0.11.6"],
        # ROS 2 Jazzy from Python wheels, for machines without a ROS distribution.
        "ros": ["ros-jazzy-rclpy", "ros-jazzy-rmw-fastrtps-cpp", "ros-jazzy-common-interfaces"],
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "sem_depth_node = sem_depth_node.ros.node:main",
            "sem-depth = sem_depth_node.cli:main",
        ],
    },
)
