"""The processes and sockets under the application: start, signals, silent connections, workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
from asyncio import TimerHandle, Transport
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from scclip_rt.errors import OptionError, OutputError, ScclipError
from scclip_rt.limits import in_range
from scclip_rt.serving.asgi import Companion, application
from scclip_rt.serving.service import Service
from scclip_rt.serving.settings import ServeSettings
from scclip_rt.serving.turns import AWAY, TakingTurns

_log = logging.getLogger("scclip_rt.serving")
_MAX_HEAD_BYTES = 64 << 10
_HEAD_SECONDS = 10.0
_BACKLOG = 2048
_FILES = 65536
_RESTART_SECONDS = 1.0
EXIT_FAILED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where a service listens, and how it ends.

    Attributes:
        host: address; loopback unless told otherwise.
        port: 0 takes a free one.
        grpc_port: of KServe's gRPC, or None.
        workers: processes.
        grace: seconds that accepted requests have after SIGTERM.
        access_log: whether each request is a line of JSON on standard output.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    workers: int = 1
    grace: float = 30.0
    access_log: bool = True

    def __post_init__(self) -> None:
        for name in ("port", "grpc_port"):
            value = getattr(self, name)
            if value is not None:
                in_range(name, value)
        in_range("workers", self.workers)
        in_range("grace", self.grace)
        if self.workers > 1 and self.grpc_port == 0:
            raise OptionError("workers share one gRPC port: give --grpc-port a number, and not 0")


def serve(settings: ServeSettings, options: ServerOptions) -> None:
    """Serve until a signal ends it.

    Raises:
        ScclipError: a model can't be loaded at the start, or the address is taken.
    """
    _allow_many_files()
    listener = _listen(options.host, options.port, "--port")
    if options.grpc_port is not None:  # gRPC itself shares a taken port with its owner
        _listen(options.host, options.grpc_port, "--grpc-port").close()
    with listener:
        if options.workers == 1:
            _serve_here(settings, options, listener)
        else:
            _serve_in_workers(settings, options, listener)


def url_of(listener: socket.socket) -> str:
    """Where a socket listens, for people."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with an end to patience: a connection must send a request's head in time, and of a sane size."""

    _head_timer: TimerHandle | None = None
    _head_bytes = 0
    _in_head = True
    _offer = _ended = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """A client connects: the clock of its first request starts."""
        super().connection_made(transport)
        self._start_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes arrive."""
        self._ended = False
        self._unset_keepalive_if_required()
        rest = data
        while rest:
            try:
                self.parser.feed_data(rest)
                rest = b""
            except httptools.HttpParserUpgrade as offer:
                # What follows CONNECT is no HTTP.
                rest = self._without_offer() + rest[offer.args[0] :] if self._offer else b""
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return
        if self._in_head and not self._ended:  # else most may be the body before this head
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._start_head()

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._in_head = False
        self._stop_timer()
        self._offer = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if not self._offer:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._ended = True
        if not self._offer:
            super().on_message_complete()

    def _without_offer(self) -> bytes:
        """The head of a request that offers HTTP/2 or WebSocket, to be read again: httptools leaves out its body."""
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _start_head(self) -> None:
        self._stop_timer()
        self._in_head, self._head_bytes = True, 0
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._head_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        if self.transport.is_closing():
            return
        if self._head_bytes:
            self._refuse(b"408 Request Timeout")
        else:
            self.transport.close()

    def _refuse(self, status: bytes) -> None:
        self._stop_timer()
        self.transport.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self.transport.close()


class DrainingServer(uvicorn.Server):
    """Answers what it has accepted after the first signal, and ends at once after the second.

    Args:
        config: uvicorn's.
        service: told that the end is near.
        companions: end beside the HTTP server, so that one grace is for all.
        at_once: whether the second signal ends this process; a worker leaves that to its parent, as it gets the
            signal of its process group (Ctrl-C, systemd) and then its parent's.
    """

    def __init__(
        self, config: uvicorn.Config, service: Service, companions: Sequence[Companion], *, at_once: bool
    ) -> None:
        super().__init__(config)
        self._service = service
        self._companions = companions
        self._at_once = at_once
        self._turns: TakingTurns | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. A loop accepts as many connections at once as `backlog` says, whatever may wait in the socket."""
        for listener in sockets or ():
            if isinstance(listener, TakingTurns):  # before the loop accepts from it
                self._turns = listener
                listener.ready = lambda: self._service.ready
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (uvicorn's signature)
        """SIGTERM or SIGINT."""
        if self.should_exit and self._at_once:
            os._exit(128 + sig)
        self._service.drain()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was accepted, then end."""
        await asyncio.gather(super().shutdown(sockets), *(companion.stop() for companion in self._companions))

    async def on_tick(self, counter: int) -> bool:
        """A model that can't be loaded at the start ends the server; so does the end of the parent process."""
        if self._turns is not None:
            self._turns.tell()
        if self._service.failed is not None:
            self.should_exit = True
        return await super().on_tick(counter)


def _serve_here(settings: ServeSettings, options: ServerOptions, listener: socket.socket) -> None:
    _configure_logging(access=options.access_log)
    service = Service(settings)
    companions: list[Companion] = []
    if options.grpc_port is not None:
        from scclip_rt.serving.grpc_server import GrpcServer

        companions.append(GrpcServer(service, host=options.host, port=options.grpc_port, grace=options.grace))
    config = uvicorn.Config(
        application(service, companions=companions),
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # Processes that accept from one socket take turns (`TakingTurns`): one connection at a time, and not by uvloop,
        # which accepts without asking the socket object.
        backlog=_BACKLOG if options.workers == 1 else 1,
        loop="auto" if options.workers == 1 else "asyncio",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(options.grace)),
    )
    parent = multiprocessing.parent_process()
    server = DrainingServer(config, service, companions, at_once=options.workers == 1)
    if parent is None:
        _log.info("listening on %s", url_of(listener))
    else:
        threading.Thread(target=_follow, args=(parent, server), daemon=True).start()
    server.run(sockets=[listener])
    if service.failed is not None:
        raise service.failed
    _log.info("every accepted request was answered; the end")


def _follow(parent: Any, server: DrainingServer) -> None:
    """End when the parent process has ended without a word."""
    parent.join()
    server.handle_exit(signal.SIGTERM, None)


def _serve_in_workers(settings: ServeSettings, options: ServerOptions, listener: socket.socket) -> None:
    """Several processes on one socket; one that dies is started again."""
    _configure_logging(access=options.access_log)
    shared = settings.shared
    with tempfile.TemporaryDirectory(prefix="scclip-serve-", ignore_cleanup_errors=True) as folder:
        metrics = Path(folder) / "metrics"
        metrics.mkdir()
        if shared is None:
            shared = Path(folder) / "vocabularies"
            shared.mkdir()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
        threads = threads_of_each(settings.threads, options.workers)
        _log.info(
            "%d processes of %d thread%s on %s",
            options.workers,
            threads,
            "s"[: threads > 1],
            url_of(listener),
        )
        _Workers(replace(settings, shared=shared, threads=threads), options, listener).run()


def threads_of_each(threads: int | None, workers: int) -> int:
    """The threads that each of several processes gets: those asked for, or the processor's, divided."""
    from scclip_rt.cpus import worker_threads

    return max(1, worker_threads(threads) // workers)


class _Workers:
    """The parent process: starts workers, passes signals on, replaces the dead."""

    def __init__(self, settings: ServeSettings, options: ServerOptions, listener: socket.socket) -> None:
        multiprocessing.allow_connection_pickling()
        self._context = multiprocessing.get_context("spawn")
        self._settings, self._options, self._listener = settings, options, listener
        self._counts = self._context.RawArray("i", [AWAY] * options.workers)
        self._processes: list[Any] = []
        self._ending = 0

    def run(self) -> None:
        """Until a signal, or until a worker can't load its models at the start."""
        with self._signals():
            for index in range(self._options.workers):
                self._processes.append(self._start(index))
            failed = False
            while not self._ending and not failed:
                time.sleep(0.1)
                failed = self._replace_dead()
            self._end()
        if failed:
            raise OptionError("a worker could not start; its message is above")

    def _start(self, index: int) -> Any:
        self._counts[index] = AWAY
        process = self._context.Process(
            target=run_worker, args=(self._settings, self._options, self._listener, self._counts, index)
        )
        process.start()
        return process

    def _replace_dead(self) -> bool:
        """Start workers for those that died; True if one says that it can't work at all."""
        for index, process in enumerate(self._processes):
            if process.is_alive():
                continue
            self._counts[index] = AWAY
            _forget_metrics(process.pid)
            if process.exitcode == EXIT_FAILED:
                return True
            _log.error("worker %s ended with %s; another one starts", process.pid, process.exitcode)
            time.sleep(_RESTART_SECONDS)  # one that dies at once must not take all the time there is
            self._processes[index] = self._start(index)
        return False

    def _end(self) -> None:
        limit = time.monotonic() + self._options.grace + 10
        self._listener.close()  # else a client that connects now waits for nobody
        for process in self._processes:
            process.terminate()
        while any(process.is_alive() for process in self._processes):
            if self._ending > 1 or time.monotonic() > limit:
                for process in self._processes:
                    process.kill()
            time.sleep(0.05)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def count(_: int, __: FrameType | None) -> None:
            self._ending += 1

        before = {number: signal.signal(number, count) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_worker(
    settings: ServeSettings, options: ServerOptions, listener: socket.socket, counts: Any, index: int
) -> None:
    """In a worker process."""
    try:
        _serve_here(settings, options, TakingTurns(listener, counts, index))
    except ScclipError as error:
        print(f"scclip: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


def _forget_metrics(pid: int) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _listen(host: str, port: int, option: str) -> socket.socket:
    """A listening socket.

    Raises:
        OutputError: the address is taken, or not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OutputError(f"can't listen on {host}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OutputError(
            f"can't listen on {host}:{port}: {error.strerror or error}; choose another {option} or --host"
        ) from error
    listener.set_inheritable(True)
    return listener


def _allow_many_files() -> None:
    """Connections are files, and the usual limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _configure_logging(*, access: bool) -> None:
    """Messages on standard error; the access log as JSON lines on standard output."""
    messages = logging.StreamHandler(sys.stderr)
    messages.setFormatter(logging.Formatter("scclip: %(message)s"))
    for name, level in (("scclip_rt", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers = [messages]
        logger.propagate = False
    lines = logging.getLogger("scclip_rt.access")
    lines.handlers = [logging.StreamHandler(sys.stdout)]
    lines.setLevel(logging.INFO if access else logging.WARNING)
    lines.propagate = False
