"""Hosts in network namespaces, and a network between them that loses packets or is cut.

Each host has a TUN device, and this process is what lies between them: it passes packets on, or drops them as a seed says, and counts. So it
needs no module of the kernel (`netem` is often missing), and it is known what was lost."""

import errno
import fcntl
import os
import random
import select
import struct
import subprocess
import threading

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


class NotAllowed(Exception):
    """This kernel, or whoever runs it, allows no namespaces or no devices."""


def _ip(*words):
    result = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise NotAllowed(f"`ip {' '.join(words)}`: {result.stderr.strip()}")


class Network:
    """Hosts by name; the first has the address 10.213.7.1, and so on. `loss` is the share of packets that are lost, each way."""

    def __init__(self, *hosts, seed):
        self.address = {host: f"10.213.7.{number}" for number, host in enumerate(hosts, 1)}
        self.loss, self.passed, self.lost = 0.0, 0, 0
        self._draw = random.Random(seed)
        self._cut = set()
        self._namespaces, self._devices = {}, {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        try:
            for number, host in enumerate(hosts, 1):
                self._add(host, number)
        except BaseException:
            self.stop()
            raise
        self._thread.start()

    def _add(self, host, number):
        namespace, device = f"postern-{os.getpid()}-{host}", f"p{os.getpid()}n{number}"
        _ip("netns", "add", namespace)
        self._namespaces[host] = namespace
        try:
            end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._devices[bytes([10, 213, 7, number])] = end
            fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
        except OSError as error:
            raise NotAllowed(f"a TUN device: {error.strerror}") from None
        _ip("link", "set", device, "netns", namespace)
        _ip("-n", namespace, "address", "add", f"{self.address[host]}/24", "dev", device)
        _ip("-n", namespace, "link", "set", device, "up")
        _ip("-n", namespace, "link", "set", "lo", "up")

    def at(self, host):
        """What stands before a command that is to run there."""
        return ["nsenter", f"--net=/run/netns/{self._namespaces[host]}"]

    def cut(self, one, other):
        """Nothing passes between these two from now on, until it is mended."""
        self._cut |= {(one, other), (other, one)}

    def mend(self):
        self._cut = set()

    def _carry(self):
        names = {bytes(map(int, address.split("."))): host for host, address in self.address.items()}
        while not self._ended.is_set():
            for end in select.select(list(self._devices.values()), [], [], 0.2)[0]:
                packet = os.read(end, 65536)
                source, target = packet[12:16], packet[16:20]
                if packet[0] >> 4 != 4 or target not in self._devices:
                    continue  # IPv6 looks for routers
                if (names.get(source), names[target]) in self._cut or self._draw.random() < self.loss:
                    self.lost += 1
                    continue
                try:
                    os.write(self._devices[target], packet)
                    self.passed += 1
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                        raise
                    self.lost += 1

    def stop(self):
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(5)
        for end in self._devices.values():
            os.close(end)
        for namespace in self._namespaces.values():
            subprocess.run(["ip", "netns", "delete", namespace], check=False)
