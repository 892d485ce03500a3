#!/usr/bin/env python3
"""Ports of loopback that a test may listen on: free_ports.py COUNT prints so many.

They lie below the range from which the kernel takes the ports of outgoing connections: one from within can be taken by any
client in the moment between its choice and its use.
"""
import random
import socket
import sys

given = set()


def is_free(port):
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port():
    """One that this process has not been given before."""
    while True:
        port = random.randrange(20_000, 32_000)
        if port not in given and is_free(port):
            given.add(port)
            return port


if __name__ == "__main__":
    print(*(free_port() for _ in range(int(sys.argv[1]))))
