"""Tests share the processor's cores: a worker of many computes on one thread, and what it starts does too."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
