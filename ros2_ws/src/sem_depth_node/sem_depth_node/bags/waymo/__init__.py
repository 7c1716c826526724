"""The Waymo Open Dataset (perception): read without TensorFlow, written as rosbags."""
