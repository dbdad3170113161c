"""A Ray cluster of several nodes on this machine, that leaves nothing behind."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

STORE_BYTES = 80 * 2**20
GONE_SECONDS = 20


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` of two nodes with room for two trials each."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_AUTH_MODE", "disabled")
    logging.getLogger("ray").setLevel(logging.ERROR)
    import ray
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="hindsight-ray-")
    head = {"num_cpus": 2, "object_store_memory": STORE_BYTES, "include_dashboard": False, "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        add_node(cluster)
        yield cluster
    finally:
        ray.shutdown()  # should a test that failed still be connected
        cluster.shutdown()
        patch.undo()
        deadline = time.monotonic() + GONE_SECONDS
        while (left := processes_of(folder)) and time.monotonic() < deadline:
            time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)
        assert not left, left


def add_node(cluster: Any, **options: Any) -> Any:
    """Another node."""
    return cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES, **options)


def processes_of(folder: str) -> list[str]:
    """Command lines of processes that were started for a cluster, by the folder of its logs."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (entry / "environ").read_bytes().decode(errors="replace")
                if folder in command or f"{folder}/" in environment:
                    found.append(command)
        except OSError:
            continue
    return found
