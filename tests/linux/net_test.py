#!/usr/bin/python3
"""User networking: a file of 256 MiB fetched from the host, and a service of the guest reached."""

import hashlib
import http.server
import socket
import threading
import time

import vm

SIZE = 256 << 20
BLOCK = bytes((i * 7 + (i >> 8)) & 0xff for i in range(1 << 20))


class File(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(SIZE))
        self.end_headers()
        for _ in range(SIZE // len(BLOCK)):
            self.wfile.write(BLOCK)

    def log_message(self, *_):
        pass


def file_of_256_mib():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), File)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.sha256()
    for _ in range(SIZE // len(BLOCK)):
        digest.update(BLOCK)
    url = f"http://10.0.2.2:{server.server_port}/file"
    with vm.VM(run=f"wget -q -O - {url} | sha256sum", cmdline="quiet") as g:
        at = g.expect("viv.run: start")
        g.wait(deadline_s=400)
        got = g.console[at:].split()[0]
        vm.check(got == digest.hexdigest(), f"SHA-256 {got}, not {digest.hexdigest()}")
        vm.no_kernel_trouble(g)
    server.shutdown()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def forwarded_port():
    port = free_port()
    with vm.VM("--net", f"user,hostfwd=tcp:127.0.0.1:{port}-:8080", cmdline="quiet",
               run="(echo hello from the guest | nc -l -p 8080) && echo served") as g:
        g.expect("viv.run: start")
        end = time.monotonic() + 60
        data = b""
        while not data and time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", port), 5) as s:
                    s.settimeout(10)
                    data = s.recv(100)
            except OSError:
                pass
            if not data:
                time.sleep(0.2)
        vm.check(data == b"hello from the guest\n", f"got {data!r}")
        g.process.kill()


def no_network():
    with vm.VM("--net", "none", cmdline="quiet", run="ls /sys/class/net") as g:
        at = g.expect("viv.run: start")
        g.wait()
        vm.check(g.console[at:].split()[0] == "lo" and "eth0" not in g.console[at:],
                 g.console[at:])


vm.run_cases([file_of_256_mib, forwarded_port, no_network])
