"""KITTI on disk: raw drives (synced or not), odometry sequences and the object set, as rosbags.

Everything follows the data set's own documents: Geiger et al., "Vision meets Robotics: The KITTI Dataset" (IJRR 2013),
the readme of the raw development kit, and the sensor setup figure for what no calibration file holds.
"""
