#!/usr/bin/env python3
"""User-mode networking with the host's own kernel as the guest (net_tap_bridge).

    net_tap_test.py BRIDGE VIV_NET            on the host's side
    net_tap_test.py guest PORT PORT6 UDP ...  inside the namespace, started by the bridge

TCP both ways with and without offloads (SHA-256 of 32 MiB), IPv6, UDP datagrams larger than the
MTU, a forwarded port, DNS through the host's resolv.conf and after that file changed. Needs root
and /dev/net/tun: exit status 77 (skipped) without.
"""
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

SIZE = 32 << 20
SKIP = 77


def blob():
    return hashlib.shake_128(b"vivarium").digest(1 << 20) * (SIZE >> 20)


def read_all(s, n):
    h, left = hashlib.sha256(), n
    while left:
        d = s.recv(min(left, 1 << 18))
        if not d:
            raise EOFError("connection ended %d bytes early" % left)
        h.update(d)
        left -= len(d)
    return h.hexdigest()


# ---- the host's side ----

def serve_tcp(listener, data):
    """A first byte 'r' asks for the blob; 'w' is followed by it, the answer is its hash."""
    def one(c):
        with c:
            if c.recv(1) == b"r":
                c.sendall(data)
            else:
                c.sendall(read_all(c, SIZE).encode())
    while True:
        c, _ = listener.accept()
        threading.Thread(target=one, args=(c,), daemon=True).start()


def serve_udp(s):
    while True:
        d, who = s.recvfrom(65536)
        s.sendto(d[::-1], who)


def serve_dns(s, answer):
    """Any question gets the A record `answer`."""
    while True:
        q, who = s.recvfrom(512)
        s.sendto(q[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + q[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4"
                 + socket.inet_aton(answer), who)


def background(fn, *args):
    threading.Thread(target=fn, args=args, daemon=True).start()


def listen(family, addr):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.bind((addr, 0))
    s.listen(8)
    return s


def bound_udp(addr, port=0):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((addr, port))
    return s


def own_resolv_conf():
    """A mount namespace in which /etc/resolv.conf is a file of ours; its path, None if refused."""
    libc = __import__("ctypes").CDLL(None, use_errno=True)
    if libc.unshare(0x00020000) != 0 or \
       libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None) != 0:
        return None
    d = tempfile.mkdtemp(prefix="viv-net-test-")
    os.chmod(d, 0o755)
    path = os.path.join(d, "resolv.conf")
    with open(path, "w") as f:
        f.write("nameserver 127.0.0.53\n")
    os.chmod(path, 0o644)
    if libc.mount(path.encode(), os.path.realpath("/etc/resolv.conf").encode(), None, 0x1000,
                  None) != 0:
        return None
    return path


def host(bridge, helper):
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        print("skip: needs root and /dev/net/tun")
        return SKIP
    for tool in ("ip", "nsenter"):
        if shutil.which(tool) is None:
            print("skip: needs the program", tool)
            return SKIP
    data = blob()
    tcp4, udp = listen(socket.AF_INET, "127.0.0.1"), bound_udp("127.0.0.1")
    try:
        tcp6 = listen(socket.AF_INET6, "::1")
    except OSError:
        tcp6 = None
    for s in filter(None, (tcp4, tcp6)):
        background(serve_tcp, s, data)
    background(serve_udp, udp)
    resolv = own_resolv_conf()
    if resolv:
        try:
            background(serve_dns, bound_udp("127.0.0.53", 53), "192.0.2.53")
            background(serve_dns, bound_udp("127.0.0.54", 53), "192.0.2.54")
        except OSError as e:
            print("no DNS part:", e)
            resolv = None
    for option in ([], ["--no-offload"]):
        probe = listen(socket.AF_INET, "127.0.0.1")
        port = probe.getsockname()[1]
        probe.close()
        if resolv:
            with open(resolv, "w") as f:
                f.write("nameserver 127.0.0.53\n")
        r = subprocess.run(
            [bridge, "--helper", helper, *option, "--hostfwd", "tcp:127.0.0.1:%d-:2222" % port,
             "--", sys.executable, __file__, "guest", str(tcp4.getsockname()[1]),
             str(tcp6.getsockname()[1] if tcp6 else 0), str(udp.getsockname()[1]), str(port),
             resolv or "-"], timeout=240)
        print("offloads %s: status %d" % ("off" if option else "on", r.returncode))
        if r.returncode != 0:
            return r.returncode
    return 0


# ---- the guest's side ----

def dial(addr, port):
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection((addr, port), timeout=60)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def transfer(addr, port, want):
    with dial(addr, port) as s:
        s.sendall(b"r")
        assert read_all(s, SIZE) == want, "host to guest: wrong bytes"
    with dial(addr, port) as s:
        s.sendall(b"w")
        s.sendall(blob())
        assert s.recv(64, socket.MSG_WAITALL).decode() == want, "guest to host: wrong bytes"
    print("  TCP both ways through", addr)


def large_udp(port):
    for n in (100, 1473, 4000, 20000, 60000):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(30)
            d = os.urandom(n)
            s.sendto(d, ("10.0.2.2", port))
            assert s.recv(65536) == d[::-1], "UDP of %d bytes" % n
    print("  UDP up to 60000 bytes")


def ask_dns():
    q = b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + b"\4test\7invalid\0" + struct.pack("!HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(3)
        s.sendto(q, ("10.0.2.3", 53))
        return socket.inet_ntoa(s.recv(512)[-4:])


def dns(resolv):
    assert ask_dns() == "192.0.2.53"
    with open(resolv, "w") as f:
        f.write("# another network\nnameserver 127.0.0.54\n")
    deadline = time.monotonic() + 60
    while ask_dns() != "192.0.2.54":
        assert time.monotonic() < deadline, "the change of resolv.conf was not followed"
        time.sleep(0.2)
    print("  DNS, also after resolv.conf changed")


def guest_server():
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    s.settimeout(60)
    s.bind(("10.0.2.15", 2222))
    s.listen(1)
    return s


def in_host_network(code, *args):
    """Runs a piece of Python in the namespace of the bridge's parent, where the host's ports are."""
    ns = "/proc/%d/ns/net" % int(os.environ["HOST_PID"])
    return subprocess.Popen(["nsenter", "--net=" + ns, sys.executable, "-c", code, *args],
                            stdout=subprocess.PIPE)


def guest(port4, port6, udp_port, fwd_port, resolv):
    want = hashlib.sha256(blob()).hexdigest()
    run = lambda *a: subprocess.run(a, check=True)
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "set", "tap0", "address", "52:54:00:12:34:56")
    run("ip", "link", "set", "tap0", "up")
    run("ip", "addr", "add", "10.0.2.15/24", "dev", "tap0")
    run("ip", "route", "add", "default", "via", "10.0.2.2")
    transfer("10.0.2.2", port4, want)
    if port6:
        transfer("fec0::2", port6, want)
    large_udp(udp_port)
    s = guest_server()
    client = in_host_network("import socket,sys\n"
                             "s=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\n"
                             "s.sendall(b'hello\\n'); print(s.recv(100).decode(),end='')",
                             str(fwd_port))
    c, _ = s.accept()
    c.sendall(c.recv(100).upper())
    assert client.communicate(timeout=60)[0] == b"HELLO\n"
    print("  a forwarded port")
    if resolv != "-":
        dns(resolv)
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "guest":
        sys.exit(guest(*map(int, sys.argv[2:6]), sys.argv[6]))
    os.environ["HOST_PID"] = str(os.getpid())
    sys.exit(host(os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])))
