"""What a network costs in memory: `python -m sem_depth_training.network_memory [FILE.onnx]` in a process of its own.

Prints the peak resident size in MiB after three runs in ONNX Runtime, or without a file that of the bare process.
Nothing of torch is imported, as on a robot.
"""

import re
import sys
from pathlib import Path

from sem_depth_node.benchmark.subjects import onnx_subject

if __name__ == "__main__":
    for file in sys.argv[1:]:
        subject = onnx_subject(Path(file), threads=0)
        for _ in range(3):
            subject.run()
    # Not getrusage: its peak survives exec, and so may be that of the process which started this one.
    status = Path("/proc/self/status").read_text()
    print(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024)
