"""Reading the benchmark's record file, and reporting what a run cost."""

import json
import resource
import struct
import sys
import time


def records(path):
    """The framed records of a file: each is a little-endian u32 length and that many bytes."""
    with open(path, "rb", buffering=1 << 20) as file:
        while head := file.read(4):
            (length,) = struct.unpack("<I", head)
            yield file.read(length)


class Meter:
    def __init__(self, name):
        self.name = name
        self.cpu = time.process_time()
        self.wall = time.perf_counter()

    def report(self, messages, size, **extra):
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        json.dump(
            {
                "name": self.name,
                "messages": messages,
                "bytes": size,
                "cpu_seconds": time.process_time() - self.cpu,
                "wall_seconds": time.perf_counter() - self.wall,
                "peak_rss_mb": peak_kib / 1024,
                "extra": extra,
            },
            sys.stdout,
        )
