"""A network between a client and a broker that can be made slow, deaf, or cut."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Proxy:
    """Listens on a port of its own, and hands on to `target`.

    is_hole: takes all and hands on nothing, in both directions, as a router that lost its state. bytes_per_s: of each
    direction of each connection; None: as fast as it goes.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.is_hole = False
        self.bytes_per_s: float | None = None
        self.accepted = 0
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("localhost", 0))
        self.port: int = self._listener.getsockname()[1]
        self._is_closed = False
        self._start(self._accept)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    @property
    def url(self) -> str:
        return f"mqtt://localhost:{self.port}/"

    def cut(self) -> None:
        """End all connections."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _start(self, target, *words) -> None:
        thread = threading.Thread(target=target, args=words, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                broker = socket.create_connection(("localhost", self.target))
            except OSError:
                client.close()
                continue
            self._sockets += [client, broker]
            both = threading.Barrier(2, action=lambda pair=(client, broker): [each.close() for each in pair])
            self._start(self._pump, client, broker, both)
            self._start(self._pump, broker, client, both)

    def _pump(self, source: socket.socket, sink: socket.socket, both: threading.Barrier) -> None:
        try:
            while data := source.recv(4096 if self.bytes_per_s is None else 512):
                while self.is_hole and not self._is_closed:
                    time.sleep(0.02)
                if self.bytes_per_s is not None:
                    time.sleep(len(data) / self.bytes_per_s)
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait()
