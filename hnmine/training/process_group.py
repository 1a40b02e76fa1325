"""The process group of Ray Train's workers, which listens at the nodes' Ray addresses alone.

torch's own store of a group listens on all interfaces, whatever address it is given, and asks nobody for a token. Here
the first worker opens the socket, at the address at which its node talks to the others (127.0.0.1 on one machine), and
the connections of gloo and NCCL use the interface of that address.

The module imports Ray: `ray_workers` imports it once that is prepared.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

_opened: list[socket.socket] = []
"""In the first worker, the socket at which its store will listen."""


class NodeGroupConfig(TorchConfig):  # type: ignore[misc]
    """What Ray Train makes the group by, in place of its own way."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """The class that does it."""
        return _NodeGroup


class _NodeGroup(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Let all workers join one group."""
        kind = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) else "gloo"
        address = worker_group.execute_single(0, _open)
        count, timeout = len(worker_group), timedelta(seconds=backend_config.timeout_s)
        joining = [
            worker_group.execute_single_async(rank, _join, kind, address, rank, count, timeout) for rank in range(count)
        ]
        ray.get(joining)


def _open() -> tuple[str, int]:
    """Open a socket at this node's Ray address; return the address and the port."""
    node = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in node else socket.AF_INET
    _opened[:] = [socket.create_server((node, 0), family=family)]
    return node, _opened[0].getsockname()[1]


def _join(kind: str, address: tuple[str, int], rank: int, count: int, timeout: timedelta) -> None:
    """Join the group whose store is at this address; rank 0 serves it."""
    from torch import distributed
    from torch._C._distributed_c10d import TCPStore

    if interface := _interface(ray.util.get_node_ip_address()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")
    listener = _opened.pop().detach() if rank == 0 else None
    store = TCPStore(*address, count, rank == 0, timeout, wait_for_workers=False, master_listen_fd=listener)
    distributed.init_process_group(kind, store=store, rank=rank, world_size=count, timeout=timeout)


def _interface(address: str) -> str | None:
    """Return the network interface that has this address."""
    found = [name for name, each in psutil.net_if_addrs().items() if address in {entry.address for entry in each}]
    return found[0] if found else None
