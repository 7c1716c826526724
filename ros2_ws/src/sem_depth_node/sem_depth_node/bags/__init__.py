"""Rosbags without ROS: read, write, process and score them, and make them from data sets."""
