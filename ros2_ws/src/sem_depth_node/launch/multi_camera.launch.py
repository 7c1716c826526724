"""Several cameras on one network: `ros2 launch sem_depth_node multi_camera.launch.py cameras:=front,left,right`.

One node serves them all, in fair turns; docs/multi_camera.md says why. -s lists the arguments.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode

SHARE = Path(get_package_share_directory("sem_depth_node"))
BOOLEAN = ["true", "false"]
FROM_FILE = ["", *BOOLEAN]  # empty: what the parameter file says


def _argument(name: str, default: str, description: str, choices: list[str] | None = None) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)


ARGUMENTS = [
    _argument(
        "cameras",
        "front,front_left,front_right,side_left,side_right",
        "Names of the cameras, with commas between, whatever the parameter file says. Each has its outputs below its "
        "name: front/depth/image and so on.",
    ),
    _argument("image", "{camera}/image", "Topic of a camera's images; {camera} stands for its name."),
    _argument("camera_info", "{camera}/camera_info", "Topic of a camera's calibration; {camera} stands for its name."),
    _argument(
        "compressed",
        "",
        "The image topics carry sensor_msgs/CompressedImage (jpeg, png); empty takes the parameter file's.",
        FROM_FILE,
    ),
    _argument(
        "lidar", "", "Topic of a LiDAR to check the scale of every camera's depth against; empty checks nothing."
    ),
    _argument("bundle", "", "Folder of the model bundle; empty takes the parameter file's, or the one that ships."),
    _argument(
        "engine",
        "",
        "What runs the network; empty takes the parameter file's.",
        ["", "auto", "tensorrt", "openvino", "onnxruntime"],
    ),
    _argument(
        "workers",
        "2",
        "Frames of different cameras in work at once, whatever the parameter file says; 2 keeps the network busy while "
        "frames are decoded and published.",
    ),
    _argument("params_file", str(SHARE / "config" / "sem_depth.yaml"), "YAML file with parameters of the node."),
    _argument(
        "autostart",
        "",
        "Configure and activate at once; false leaves it to a lifecycle manager; empty takes the parameter file's, or "
        "true.",
        FROM_FILE,
    ),
    _argument("use_sim_time", "", "Take the time from /clock; empty takes the parameter file's, or false.", FROM_FILE),
    _argument("namespace", "", "Namespace of the node, of the cameras and of all topics with relative names."),
    _argument("node_name", "sem_depth", "Name of the node."),
    _argument(
        "shared_memory",
        "true",
        "Use the Fast DDS profile with shared memory for images; the cameras and all listeners should use it too.",
        BOOLEAN,
    ),
    _argument("log_level", "info", "Of the node.", ["debug", "info", "warn", "error", "fatal"]),
]


def _node(context: LaunchContext) -> list[LifecycleNode]:
    """The node, with those parameters that were given as arguments over those of the file, and `cameras` and `workers`
    in any case."""
    given = context.launch_configurations
    cameras = [name.strip() for name in given["cameras"].split(",")]
    parameters: dict[str, object] = {name: given[name] for name in ("bundle", "engine") if given[name]}
    parameters |= {name: given[name] == "true" for name in ("compressed", "autostart", "use_sim_time") if given[name]}
    parameters |= {"cameras": cameras, "workers": int(given["workers"])}
    if given["lidar"]:
        parameters["scale_check_lidar"] = given["lidar"]
    return [
        LifecycleNode(
            package="sem_depth_node",
            executable="sem_depth_node",
            name=given["node_name"],
            namespace=given["namespace"],
            parameters=[given["params_file"], parameters],
            remappings=[
                (f"{camera}/{topic}", given[topic].replace("{camera}", camera))
                for camera in cameras
                for topic in ("image", "camera_info")
            ],
            ros_arguments=["--log-level", given["log_level"]],
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Entry point of `ros2 launch`."""
    profile = str(SHARE / "config" / "fastdds_shared_memory.xml")
    shared_memory = IfCondition(LaunchConfiguration("shared_memory"))
    return LaunchDescription(
        [
            *ARGUMENTS,
            SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", profile, condition=shared_memory),
            SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", profile, condition=shared_memory),
            OpaqueFunction(function=_node),
        ]
    )
