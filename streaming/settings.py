"""How a worker is started, and what that means for its Kafka clients.

Time: seconds in settings, milliseconds in Kafka's options.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from featurestore.settings import StreamingSettings

# What a worker ends with where no other try will do: as sysexits.h has it for a configuration at fault.
NEEDS_A_PERSON = 78


@dataclass(frozen=True)
class WorkerOptions:
    """One worker: its ``number`` among those of this host, and what it was asked to do. ``until_end``: stop
    at the ends that the topics had at the start; ``accept_gap``: go on where a stored position is no longer
    in the topic; ``wait``: for a source with a topic, and for its topic, instead of saying that it isn't
    there."""

    number: int = 0
    until_end: bool = False
    archive: bool = False
    accept_gap: bool = False
    wait: bool = False


def worker_name(settings: StreamingSettings, options: WorkerOptions) -> str:
    """The worker's own name in its group, the same after a restart: its partitions wait for it."""
    return f"{settings.instance or socket.gethostname()}-{options.number}"


def client_options(settings: StreamingSettings) -> dict[str, object]:
    """What every client of a worker needs."""
    return {
        "bootstrap_servers": settings.bootstrap_servers.split(","),
        # A broker that was restarted is found within a second, not after half a minute.
        "reconnect_backoff_max_ms": 1_000,
        **settings.client,
    }


def reader_options(settings: StreamingSettings) -> dict[str, object]:
    """What every consumer needs: the store keeps the positions, so nothing is committed or reset by itself,
    and what a producer's transaction has not committed is not read."""
    return {
        **client_options(settings),
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "allow_auto_create_topics": False,
        "max_poll_records": settings.batch_messages,
        "fetch_max_wait_ms": 100,
        "check_crcs": True,
    }


def member_options(settings: StreamingSettings, options: WorkerOptions) -> Mapping[str, object]:
    """What the group's consumer needs besides: partitions move one by one while the others go on."""
    from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

    session_ms = int(settings.session_timeout_s * 1000)
    return {
        **reader_options(settings),
        "group_id": settings.group,
        "group_instance_id": worker_name(settings, options),
        "partition_assignment_strategy": [CooperativeStickyAssignor],
        "session_timeout_ms": session_ms,
        # A third of the session: two heartbeats may be lost.
        # How soon a new partition of a topic is noticed.
        "metadata_max_age_ms": 60_000,
        "heartbeat_interval_ms": max(1, min(3_000, session_ms // 3)),
    }
