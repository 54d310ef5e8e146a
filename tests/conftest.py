"""One CPU thread a process: tests run side by side, and equal bits need an equal thread count."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
