"""The keeper: a small process that owns the embedded server. Run as a script, with the standard library alone.

Why a process of its own: the server must live exactly as long as somebody uses it. Every user holds a connection to the
keeper's socket; the kernel closes it when the user ends, by SIGKILL too, on Linux and macOS alike. When the last one
has gone, the keeper stops the server and ends.

Invariants: one keeper a data directory (an exclusive lock on `keeper.lock` for its whole life); a server that dies
while it is in use is started again; a server that an earlier keeper left behind is taken over, never doubled; no
server without a keeper (on Linux the kernel stops it with its keeper).

Usage: embedded_keeper.py JSON, with {binary, arguments, store_dir, socket, keeper_socket, log}.
"""

import contextlib
import ctypes
import enum
import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

# Whoever spawned us connects within milliseconds; a machine under load may take seconds.
FIRST_USER_S = 15.0
# A server writes its file out on SIGTERM; then it may be killed: what was acknowledged is in the file.
STOP_S = 10.0
TICK_S = 0.02
# Users wake the keeper themselves; this long a server may be dead before it is started again.
READY_TICK_S = 0.1
# A server that dies this often in a row will not come up by trying once more.
STARTS_IN_A_ROW_MAX = 5
STEADY_S = 10.0
PR_SET_PDEATHSIG = 1
# Inherited descriptors have low numbers: they are opened before anything is served.
DESCRIPTORS_MAX = 4_096


class Probe(enum.Enum):
    """What is behind the server's socket. A server that loads its file, or hangs, is BUSY: it must not be doubled."""

    ABSENT = enum.auto()
    BUSY = enum.auto()
    READY = enum.auto()


def probe(path: str) -> Probe:
    """Knock at the server."""
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.settimeout(1.0)
        try:
            visitor.connect(path)
        except OSError:
            return Probe.ABSENT
        try:
            visitor.sendall(b"PING\r\n")
            return Probe.READY if visitor.recv(64).startswith(b"+PONG") else Probe.BUSY
        except OSError:
            return Probe.BUSY


def end_with_parent() -> None:
    """In the child, before exec: SIGTERM when the keeper dies. Linux only; elsewhere the next keeper takes the
    server over."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Server:
    """The one server: started, taken over, started again, stopped."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.process: subprocess.Popen[bytes] | None = None
        self.log_offset = 0
        self.ready = False
        self.started_at_s = 0.0
        self.starts_in_a_row = 0

    def start(self) -> None:
        """Start it, unless one is there already or its lock is still held. The server inherits the lock and holds it
        to its end: even if the socket's file is gone, there are never two servers on one file."""
        found = probe(self.order["socket"])
        if found is not Probe.ABSENT:
            self.ready = found is Probe.READY
            return
        lock = lock_file(self.order, "server.lock")
        if lock is None:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.order["socket"])
        with open(self.order["log"], "ab") as log:
            self.log_offset = log.tell()
            self.process = subprocess.Popen(
                [self.order["binary"], *self.order["arguments"]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.order["store_dir"],
                pass_fds=(lock,),
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )
        os.close(lock)
        self.started_at_s = time.monotonic()
        self.starts_in_a_row += 1

    def watch(self) -> None:
        """Note readiness, and start again what has died."""
        if self.process is None:
            self.ready = False
            self.start()
        elif self.process.poll() is not None:
            if self.starts_in_a_row >= STARTS_IN_A_ROW_MAX:
                raise SystemExit(f"the store ended {self.starts_in_a_row} times in a row")
            self.process, self.ready = None, False
            self.start()
        elif not self.ready:
            self.ready = probe(self.order["socket"]) is Probe.READY
        elif self.starts_in_a_row and time.monotonic() - self.started_at_s > STEADY_S:
            self.starts_in_a_row = 0

    def status(self) -> bytes:
        """What every user is told once the server is ready."""
        with open(self.order["log"], "rb") as log:
            log.seek(self.log_offset)
            truncated = b"Truncating the AOF" in log.read()
        pid = self.process.pid if self.process is not None else 0
        return json.dumps({"pid": pid, "keeper_pid": os.getpid(), "truncated": truncated}).encode() + b"\n"

    def stop(self) -> None:
        """SIGTERM, or SHUTDOWN for one that was taken over; SIGKILL when it does not end."""
        if self.process is None:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as last:
                last.settimeout(STOP_S)
                last.connect(self.order["socket"])
                last.sendall(b"SHUTDOWN\r\n")
                last.recv(64)
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def lock_file(order: dict[str, Any], name: str) -> int | None:
    """An exclusive lock, as the open descriptor that holds it; None when somebody has it."""
    descriptor = os.open(os.path.join(order["store_dir"], name), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def become_keeper(order: dict[str, Any]) -> bool:
    """Take the keeper's lock and hold it to the end of this process, or find that another keeper serves. One that is
    just ending is waited for."""
    deadline_s = time.monotonic() + STOP_S * 2
    while time.monotonic() < deadline_s:
        if lock_file(order, "keeper.lock") is not None:
            return True
        if probe(order["keeper_socket"]) is not Probe.ABSENT:
            return False
        time.sleep(TICK_S)
    return False


@contextlib.contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """The keeper's socket. It goes before the server does, so that nobody joins a server that is ending."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(128)
    listener.setblocking(False)
    try:
        yield listener
    finally:
        os.unlink(path)
        listener.close()


class Users:
    """The connections of those who use the server."""

    def __init__(self, listener: socket.socket) -> None:
        self.selector = selectors.DefaultSelector()
        self.listener = listener
        self.selector.register(listener, selectors.EVENT_READ)
        self.told: dict[socket.socket, bool] = {}
        self.ever = False

    def turn(self, timeout_s: float) -> None:
        """Let in who comes, let go who has ended."""
        for key, _ in self.selector.select(timeout_s):
            if key.fileobj is self.listener:
                with contextlib.suppress(BlockingIOError):
                    user, _ = self.listener.accept()
                    user.setblocking(False)
                    self.selector.register(user, selectors.EVENT_READ)
                    self.told[user] = False
                    self.ever = True
            elif isinstance(key.fileobj, socket.socket):
                self._read(key.fileobj)

    def _read(self, user: socket.socket) -> None:
        try:
            ended = not user.recv(64)
        except BlockingIOError:
            ended = False
        except OSError:
            ended = True
        if ended:
            self.selector.unregister(user)
            del self.told[user]
            user.close()

    def tell(self, status: Callable[[], bytes]) -> None:
        """Tell those who do not know yet that the server is ready."""
        for user in [user for user, told in self.told.items() if not told]:
            self.told[user] = True
            with contextlib.suppress(OSError):
                user.send(status())


def keep(order: dict[str, Any]) -> None:
    """Serve until the last user has gone."""
    if not become_keeper(order):
        return
    server = Server(order)
    try:
        with listening(order["keeper_socket"]) as listener:
            users = Users(listener)
            server.start()
            began_s = time.monotonic()
            while users.told or (not users.ever and time.monotonic() - began_s < FIRST_USER_S):
                users.turn(READY_TICK_S if server.ready else TICK_S)
                server.watch()
                if server.ready:
                    users.tell(server.status)
    finally:
        server.stop()


def main() -> None:
    """A session of our own: Ctrl-C in a terminal is for the users; they settle first, then go, and the keeper
    follows."""
    os.setsid()
    os.closerange(3, DESCRIPTORS_MAX)  # a listening socket of the gateway must not outlive it here
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    keep(json.loads(sys.argv[1]))


if __name__ == "__main__":
    main()
