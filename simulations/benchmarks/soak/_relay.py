"""A bad link: joins this network namespace to a new one by two TAP devices, late, with losses, and can be cut.

    python _relay.py NAME HOST DEVICE DELAY_S LOSS CUT_FILE

Makes interface NAME with address HOST/30 here and one with DEVICE/30 in a namespace of its own, in which other
programs can run (nsenter --net=/proc/PID/ns/net). Copies Ethernet frames between them after DELAY_S each way; LOSS of
them are lost, and all while CUT_FILE exists. Everything vanishes with the process. At the end it prints what it saw.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

_NEWNET = 0x40000000
_TUNSETIFF, _TAP_WITHOUT_HEADER = 0x400454CA, 0x0002 | 0x1000
_MTU = 1500


def tap(name: str, address: str) -> int:
    """The descriptor of a new TAP interface in this namespace, up, with an address."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_WITHOUT_HEADER))
    for words in (f"addr add {address}/30 dev {name}", f"link set {name} mtu {_MTU} up", "link set lo up"):
        subprocess.run(["ip", *words.split()], check=True)
    return tun


def relay(ends: tuple[int, int], delay_s: float, loss: float, cut: Path) -> None:
    """Copy frames until SIGTERM."""
    seen = lost = 0
    rng, waiting = random.Random(0), list[tuple[float, int, int, bytes]]()
    other = {ends[0]: ends[1], ends[1]: ends[0]}

    def stop(*_: object) -> None:
        print(f"{seen} frames, {lost} lost", flush=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    is_cut, looked = False, 0.0
    while True:
        now = time.monotonic()
        if now - looked > 0.1:
            is_cut, looked = cut.exists(), now
        while waiting and waiting[0][0] <= now:
            _, _, end, frame = heapq.heappop(waiting)
            try:
                os.write(end, frame)
            except OSError:  # a queue that is full drops, as any link's
                lost += 1
        pause = max(0.0, min(0.1, waiting[0][0] - now)) if waiting else 0.1
        for end in select.select(ends, (), (), pause)[0]:
            frame = os.read(end, _MTU + 100)
            seen += 1
            if is_cut or rng.random() < loss:
                lost += 1
            else:
                heapq.heappush(waiting, (time.monotonic() + delay_s, seen, other[end], frame))


def main() -> None:
    """Make both ends and join them."""
    name, host, device, delay_s, loss, cut = sys.argv[1:]
    here = tap(name, host)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEWNET):
        sys.exit(os.strerror(ctypes.get_errno()))
    there = tap(name, device)
    print("up", flush=True)
    relay((here, there), float(delay_s), float(loss), Path(cut))


if __name__ == "__main__":
    main()
