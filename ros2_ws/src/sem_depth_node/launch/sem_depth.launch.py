"""Start the node: `ros2 launch sem_depth_node sem_depth.launch.py image:=/camera/image_raw`; -s lists arguments."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import LifecycleNode, Node

SHARE = Path(get_package_share_directory("sem_depth_node"))
BOOLEAN = ["true", "false"]
FROM_FILE = ["", *BOOLEAN]  # empty: what the parameter file says


def _argument(name: str, default: str, description: str, choices: list[str] | None = None) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)


ARGUMENTS = [
    _argument("image", "image", "Topic of the camera's images."),
    _argument("camera_info", "camera_info", "Topic of the camera's calibration."),
    _argument(
        "compressed",
        "",
        "The image topic carries sensor_msgs/CompressedImage (jpeg, png); empty takes the parameter file's.",
        FROM_FILE,
    ),
    _argument("bundle", "", "Folder of the model bundle; empty takes the parameter file's, or the one that ships."),
    _argument(
        "engine",
        "",
        "What runs the network; empty takes the parameter file's.",
        ["", "auto", "tensorrt", "openvino", "onnxruntime"],
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
    _argument("namespace", "", "Namespace of the node and of its topics with relative names."),
    _argument("node_name", "sem_depth", "Name of the node."),
    _argument("rviz", "false", "Show image, depth and cloud in RViz.", BOOLEAN),
    _argument("rviz_frame", "camera", "Fixed frame of RViz: one in the TF tree, or the frame_id of the images."),
    _argument(
        "shared_memory",
        "false",
        "Use the Fast DDS profile with shared memory for images; the camera and all listeners should use it too.",
        BOOLEAN,
    ),
    _argument("log_level", "info", "Of the node.", ["debug", "info", "warn", "error", "fatal"]),
]


def _node(context: LaunchContext) -> list[LifecycleNode]:
    """The node, with those parameters that were given as arguments over those of the file."""
    given = {name: context.launch_configurations[name] for name in ("bundle", "engine")}
    flags = {name: context.launch_configurations[name] for name in ("compressed", "autostart", "use_sim_time")}
    parameters: dict[str, object] = {name: value for name, value in given.items() if value}
    parameters |= {name: value == "true" for name, value in flags.items() if value}
    return [
        LifecycleNode(
            package="sem_depth_node",
            executable="sem_depth_node",
            name=LaunchConfiguration("node_name"),
            namespace=LaunchConfiguration("namespace"),
            parameters=[LaunchConfiguration("params_file"), parameters],
            remappings=[
                ("image", LaunchConfiguration("image")),
                ("camera_info", LaunchConfiguration("camera_info")),
            ],
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
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
            Node(
                package="rviz2",
                executable="rviz2",
                namespace=LaunchConfiguration("namespace"),
                arguments=["-d", str(SHARE / "rviz" / "sem_depth.rviz"), "-f", LaunchConfiguration("rviz_frame")],
                remappings=[("image", LaunchConfiguration("image"))],
                parameters=[
                    {"use_sim_time": PythonExpression(["'", LaunchConfiguration("use_sim_time"), "' == 'true'"])}
                ],
                condition=IfCondition(LaunchConfiguration("rviz")),
                output="screen",
            ),
        ]
    )
