"""Who connects and is nobody, to each of some ports of this machine."""
import collections
import contextlib
import os
import socket
import ssl
import threading

HELD = 500
GREETERS = 100
GARBAGE = [b"GET / HTTP/1.1\r\n\r\n", os.urandom(1 << 16), b"\x16\x03\x01\x02\x00\x01" * 200,
           b"\x80\x01\x00\x01\x00\x00\x00\x05hello" + b"\xff" * 64, b"LOCKSHM1" + bytes(56)]


def client_hello():
    """What a client that speaks TLS says first."""
    said = ssl.MemoryBIO()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    with contextlib.suppress(ssl.SSLWantReadError):
        client.wrap_bio(ssl.MemoryBIO(), said).do_handshake()
    return said.read()


class Strangers:
    """Until the end of the block: `trickle` keeps 500 connections a port, sends a byte on each now
    and then, and opens those again that were ended; `flood` connects, sends garbage, and goes;
    `greet` begins handshakes of TLS and never ends them."""

    def __init__(self, addresses, ways=("trickle", "flood", "greet")):
        self.over = threading.Event()
        self.connections = 0
        self.threads = [threading.Thread(target=getattr(self, way), args=((host, int(port)),))
                        for host, port in (address.rsplit(":", 1) for address in addresses)
                        for way in ways]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def connect(self, address):
        self.connections += 1
        return socket.create_connection(address, 2)

    def trickle(self, address):
        held = collections.deque()
        while not self.over.wait(0.25):
            with contextlib.suppress(OSError):
                while len(held) < HELD and not self.over.is_set():
                    held.append(self.connect(address))
            for _ in range(len(held) // 5):
                stranger = held.popleft()
                try:
                    stranger.send(b"\x16")
                    held.append(stranger)
                except OSError:
                    stranger.close()
        for stranger in held:
            stranger.close()

    def flood(self, address):
        while not self.over.wait(0.02):
            for garbage in GARBAGE:
                with contextlib.suppress(OSError):
                    with self.connect(address) as stranger:
                        stranger.sendall(garbage)

    def greet(self, address):
        hello = client_hello()
        held = collections.deque()
        while not self.over.wait(0.02):
            for _ in range(5):
                with contextlib.suppress(OSError):
                    held.append(self.connect(address))
                    held[-1].sendall(hello)
            while len(held) > GREETERS:
                held.popleft().close()
        for stranger in held:
            stranger.close()
