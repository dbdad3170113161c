"""Has the kernel killed processes because memory ran out?"""

from __future__ import annotations

from pathlib import Path

from trainers.processes.channel import Message


def oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory: in this control group, or else on this machine.

    None where the system does not say.
    """
    for path in (*_events_of_group(), Path("/proc/vmstat")):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        counts = [int(count) for name, _, count in (line.partition(" ") for line in lines) if name == "oom_kill"]
        if counts:
            return counts[0]
    return None


def blame_memory(words: Message, *, before: int | None) -> Message:
    """A trial's last message; where it was killed, and the kernel has killed since `before`, memory is the reason."""
    if words.get("kind") != "killed" or "SIGKILL" not in words["reason"] or not has_killed_since(before):
        return words
    return {**words, "kind": "out_of_memory", "reason": f"{words['reason']}; the kernel did it: memory had run out"}


def has_killed_since(before: int | None) -> bool:
    """Whether the kernel has killed any since `oom_kills` was `before`."""
    now = oom_kills()
    return before is not None and now is not None and now > before


def _events_of_group() -> list[Path]:
    """Where Linux counts them for the control group of this process: version 2, and version 1."""
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    paths = []
    for _, controllers, group in groups:
        inside = group.strip("/")
        if not controllers:
            paths += [Path("/sys/fs/cgroup", inside, "memory.events"), Path("/sys/fs/cgroup/memory.events")]
        elif "memory" in controllers.split(","):
            paths += [
                Path("/sys/fs/cgroup/memory", inside, "memory.oom_control"),
                Path("/sys/fs/cgroup/memory/memory.oom_control"),
            ]
    return paths
