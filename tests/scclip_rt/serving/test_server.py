"""The process: signals, workers, and connections that say nothing or too much."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from scclip_rt.cli import build_parser
from scclip_rt.cli.serve import parse
from scclip_rt.errors import ScclipError
from scclip_rt.serving import server as server_module
from scclip_rt.serving.server import BoundedProtocol, DrainingServer, ServerOptions, serve, threads_of_each
from scclip_rt.serving.settings import ServeSettings
from scclip_rt.serving.turns import TakingTurns
from services import Running, picture, png, settings_of, wait_for

FILE = png(picture(4))
Begin = Callable[..., tuple[subprocess.Popen[str], httpx.Client, list[str]]]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def accepts(client: httpx.Client) -> bool:
    """Whether a new connection gets an answer."""
    try:
        client.get("/v2/health/live", headers={"Connection": "close"})
    except httpx.TransportError:
        return False
    return True


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that `--workers` started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.fixture
def begin(bundle_path: Path) -> Iterator[Begin]:
    """Start `scclip serve` as a process; gives it, a client and the lines it wrote on standard error."""
    processes = []

    def start(*options: str) -> tuple[subprocess.Popen[str], httpx.Client, list[str]]:
        port = free_port()
        command = [sys.executable, "-m", "scclip_rt.cli", "serve", str(bundle_path), "--port", str(port)]
        command += ["--classes", "red; green", "--templates", "none", *options]
        process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        processes.append(process)
        lines: list[str] = []
        threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True).start()
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)

        def ready() -> bool:
            assert process.poll() is None, lines
            try:
                return client.get("/v2/health/ready").status_code == 200
            except httpx.TransportError:
                return False

        wait_for(ready)
        return process, client, lines

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def test_sigterm_loses_no_accepted_request_and_the_log_names_each(begin: Begin) -> None:
    process, client, _ = begin()
    statuses: dict[str, int] = {}
    sent: list[str] = []

    def ask(name: str) -> None:
        for number in range(1000):
            request_id = f"{name}-{number}"
            try:
                sent.append(request_id)
                reply = httpx.post(
                    client.base_url.join("/v1/segment"), content=FILE, headers={"X-Request-Id": request_id}, timeout=60
                )  # fmt: skip
            except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
                return  # not accepted any more
            statuses[request_id] = reply.status_code

    threads = [threading.Thread(target=ask, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(statuses) >= 8)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    for thread in threads:
        thread.join(60)
    assert process.returncode == 0
    lines = [json.loads(line) for line in out.splitlines() if "/v1/segment" in line]
    answered = {line["id"]: line["status"] for line in lines if line["status"] == 200}
    assert answered == {name: status for name, status in statuses.items() if status == 200}
    assert {line["status"] for line in lines} <= {200, 503}
    # A refused request has no stages, and an image seen before isn't encoded again.
    assert any({"queue", "prepare", "encode", "finish"} <= set(line) for line in lines)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_signal_ends_at_once_what_a_slow_client_holds_up(begin: Begin, workers: str) -> None:
    process, client, _ = begin("--workers", workers, "--grace", "600", "--timeout", "600")

    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) as slow:
        slow.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n"
        )
        assert slow.recv(100).startswith(b"HTTP/1.1 100")  # a handler waits for the body
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: not accepts(client))
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_workers_share_threads_and_vocabularies_and_replace_the_dead(begin: Begin) -> None:
    process, client, lines = begin("--workers", "2", "--threads", "2", "--no-access-log", "--watch", "0")
    assert any("2 processes of 1 thread on" in line for line in lines)
    name = client.post("/v1/vocabularies", json={"classes": ["one", "two"]}).json()["name"]

    def ask() -> int:  # a connection of its own: any of the two may take it
        url = client.base_url.join(f"/v1/segment?vocabulary={name}")
        return httpx.post(url, content=FILE, timeout=60).status_code

    wait_for(lambda: all(ask() == 200 for _ in range(12)))
    assert 'scclip_images_total{model="tiny"}' in client.get("/metrics").text
    # Both have written their numbers, though no bundle is watched: sums of two, and the least of what is yes or no.
    wait_for(lambda: "scclip_queue_limit 128.0" in client.get("/metrics").text)
    assert "scclip_ready 1.0" in client.get("/metrics").text
    os.kill(workers_of(process)[0], signal.SIGKILL)
    wait_for(lambda: any("another one starts" in line for line in lines))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_workers_that_get_the_signal_of_their_group_too_lose_no_request(begin: Begin) -> None:
    """As with Ctrl-C in a terminal, and when systemd stops a service."""
    process, client, _ = begin("--workers", "2", "--grace", "60")
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) as slow:
        slow.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n" % len(FILE)
        )
        assert slow.recv(100).startswith(b"HTTP/1.1 100")
        workers = workers_of(process)
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: not accepts(client))
        slow.sendall(FILE)
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
    assert process.wait(60) == 0


def test_grpc_ends_with_http(begin: Begin) -> None:
    """One grace is for both: calls are not accepted while HTTP still answers."""
    grpc = pytest.importorskip("grpc")
    port = free_port()
    process, client, _ = begin("--grpc-port", str(port), "--grace", "600", "--timeout", "600")
    with (
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) as slow,
    ):
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")

        def refused() -> bool:
            try:
                live(b"", timeout=30)
            except grpc.RpcError as error:
                return error.code() == grpc.StatusCode.UNAVAILABLE
            return False

        assert not refused()
        slow.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n" % len(FILE)
        )
        assert slow.recv(100).startswith(b"HTTP/1.1 100")
        process.send_signal(signal.SIGTERM)
        wait_for(refused)
        slow.sendall(FILE)
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
    assert process.wait(60) == 0


def test_the_bundles_own_templates_are_the_default(own_bundle: Path) -> None:
    settings, _ = parse(build_parser().parse_args(["serve", str(own_bundle)]))
    assert settings.templates is None


def test_processes_that_share_a_socket_take_turns() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address, counts = listener.getsockname(), [0, 0]
        first, second = (TakingTurns(listener.dup(), counts, index) for index in range(2))
    with first, second, socket.create_connection(address), socket.create_connection(address):
        one, _ = first.accept()
        with pytest.raises(BlockingIOError):
            first.accept()
        assert counts == [1, 0]
        two, _ = second.accept()
        assert counts == [1, 1]
        one.close()
        two.close()
        with socket.create_connection(address):  # nobody has any again
            second.accept()[0].close()


def test_a_process_that_is_not_ready_leaves_connections_to_one_that_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address, counts = listener.getsockname(), [0, 0]
        first, second = (TakingTurns(listener.dup(), counts, index) for index in range(2))
    first.ready = lambda: False
    with first, second, socket.create_connection(address):
        end = time.monotonic() + 0.3
        while time.monotonic() < end:  # however long it waits
            with pytest.raises(BlockingIOError):
                first.accept()
        second.ready = lambda: False
        second.tell()
        first.accept()[0].close()  # to say that nobody is ready


def test_a_process_is_asked_whether_it_is_ready_before_it_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one that takes a dead one's place has no connections, and gets those that come while its model loads."""
    asked = []

    async def startup(_: uvicorn.Server, sockets: list[TakingTurns]) -> None:
        asked.append(sockets[0].ready())

    monkeypatch.setattr(uvicorn.Server, "startup", startup)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        shared = TakingTurns(listener.dup(), [0, 0], 0)
    with shared:
        server = DrainingServer(uvicorn.Config(Mock()), Mock(ready=False), (), at_once=False)
        asyncio.run(server.startup([shared]))
    assert asked == [False]


def test_a_process_that_waited_long_enough_accepts_out_of_turn() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        only = TakingTurns(listener.dup(), [0, 0], 0)
    with only, socket.create_connection(address), socket.create_connection(address):
        one, _ = only.accept()

        def again() -> bool:
            try:
                only.accept()[0].close()
            except BlockingIOError:
                return False
            return True

        wait_for(again)
        one.close()


def test_a_bundle_that_cannot_be_served_ends_in_one_line(own_bundle: Path) -> None:
    (own_bundle / "encoder.fp32.onnx").write_bytes(bytes((own_bundle / "encoder.fp32.onnx").stat().st_size))
    command = [
        sys.executable,
        "-m",
        "scclip_rt.cli",
        "serve",
        str(own_bundle),
        "--port",
        "0",
        "--no-access-log",
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert "scclip: error:" in run.stderr


@pytest.fixture
def impatient(
    bundle_path: Path, start: Callable[[ServeSettings], Running], monkeypatch: pytest.MonkeyPatch
) -> Running:
    monkeypatch.setattr(server_module, "_HEAD_SECONDS", 0.2)
    return start(settings_of(bundle_path))


def test_connections_that_say_nothing_are_closed(impatient: Running) -> None:
    silent = [socket.create_connection(impatient.address) for _ in range(50)]
    assert impatient.client.get("/v2/health/live").status_code == 200
    for connection in silent:
        connection.settimeout(30)
        assert connection.recv(10) == b""
        connection.close()


def test_a_head_that_does_not_end_is_refused(impatient: Running) -> None:
    with socket.create_connection(impatient.address, timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
    with socket.create_connection(impatient.address, timeout=30) as connection:
        connection.sendall(
            b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: %s\r\n" % (i, b"x" * 900) for i in range(80))
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 431")


def test_what_is_no_http_is_refused(running: Running) -> None:
    with socket.create_connection(running.address, timeout=30) as connection:
        connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert running.client.get("/v2/health/live").status_code == 200


def test_a_body_that_stops_half_way_ends_nothing(running: Running) -> None:
    with socket.create_connection(running.address, timeout=30) as connection:
        connection.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\nabc")
        time.sleep(0.05)
    gone = 'scclip_requests_total{route="/v1/segment",status="499"}'
    wait_for(lambda: gone in running.client.get("/metrics").text)


def test_threads_are_divided() -> None:
    assert [threads_of_each(8, 3), threads_of_each(1, 4)] == [2, 1]


def test_the_command_line_becomes_settings(bundle_path: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\nrest")
    (tmp_path / "classes.txt").write_text("sky\n")
    arguments = [
        "serve", str(bundle_path), "--model-name", "mine", "--bundle", f"b={bundle_path}", "--api-key-file",
        str(tmp_path / "key"), "--max-queue", "3", "--cache-mb", "0", "--vocabulary", "v=x.safetensors", "--classes",
        str(tmp_path / "classes.txt"), "--cors", "https://a.example", "--label-studio", "http://ls:8080/",
    ]  # fmt: skip
    settings, options = parse(build_parser().parse_args(arguments))
    assert [model.name for model in settings.models] == ["mine", "b"]
    assert (settings.api_key, settings.limits.queue, settings.limits.cache_bytes) == ("s3cret", 3, 0)
    assert settings.label_studio == "http://ls:8080"
    assert (options.host, options.port) == ("127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a bundle"),
        (["nowhere.scclip"], "no such bundle"),
        (["demo", "--bundle", "x"], "NAME=PATH"),
        (["demo", "--api-key-file", "/nowhere"], "can't read"),
        (["demo", "--workers", "2", "--grpc-port", "0"], "give --grpc-port a number"),
        (["demo", "--model-name", "a/b"], "URLs"),
    ],
)
def test_what_is_wrong_on_the_command_line(arguments: list[str], message: str) -> None:
    with pytest.raises(ScclipError, match=message):
        parse(build_parser().parse_args(["serve", *arguments]))


def test_a_key_that_no_header_can_carry_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("schlüssel", "utf-8")
    with pytest.raises(ScclipError, match="printable ASCII"):
        parse(build_parser().parse_args(["serve", "demo", "--api-key-file", str(tmp_path / "key")]))


def test_a_grpc_port_is_not_shared_with_another_server(bundle_path: Path) -> None:
    """gRPC's own sockets would share it, and each server get some of the calls."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        options = ServerOptions(port=0, grpc_port=other.getsockname()[1])
        with pytest.raises(ScclipError, match="another --grpc-port"):
            serve(settings_of(bundle_path), options)


def test_a_body_and_the_next_head_may_come_in_one_piece() -> None:
    """A client that sends its next request before it has the answer: the body does not count as a head."""

    async def answer(scope: object, receive: object, send: object) -> None:
        pass

    async def written() -> list[bytes]:
        protocol = BoundedProtocol(uvicorn.Config(answer), ServerState(), {})
        transport = Mock(is_closing=lambda: False, get_extra_info=lambda _: None)
        protocol.connection_made(transport)
        body = bytes(200_000)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
        protocol.data_received(head + body + b"GET / HTTP/1.1\r\n")
        protocol.connection_lost(None)
        await asyncio.sleep(0)  # what it began ends
        return [call.args[0] for call in transport.write.call_args_list]

    assert not [text for text in asyncio.run(written()) if b" 431 " in text]


def test_a_client_that_offers_another_protocol_is_answered_in_this_one(running: Running) -> None:
    """As Java's clients and `curl --http2` do with every first request; the connection goes on after it."""
    offer = (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    )
    post = b"POST /v1/segment HTTP/1.1\r\nHost: a\r\n" + offer + b"Content-Length: %d\r\n\r\n" % len(FILE)
    get = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n"
    with socket.create_connection(running.address, timeout=30) as connection:
        connection.sendall(post + FILE[:100])
        time.sleep(0.05)
        connection.sendall(FILE[100:] + get + offer + b"\r\n" + get + b"Connection: close\r\n\r\n")
        replies = b"".join(iter(lambda: connection.recv(65536), b""))
    assert [replies.count(text) for text in (b"HTTP/1.1 200", b"\x89PNG", b'{"live":true}')] == [3, 1, 2]


def test_connect_is_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """httptools ends such a request as it ends an offer; read again as one, it would be read for ever."""
    begun = []

    async def answer(scope: dict[str, object], receive: object, send: object) -> None:
        begun.append((scope["method"], scope["path"]))

    async def heard() -> None:
        protocol = BoundedProtocol(uvicorn.Config(answer), ServerState(), {})
        protocol.connection_made(Mock(is_closing=lambda: False, get_extra_info=lambda _: None))
        monkeypatch.setattr(protocol, "_without_offer", Mock(side_effect=AssertionError("read again")))
        protocol.data_received(b"CONNECT http://a:80/b HTTP/1.1\r\nHost: a\r\n\r\n not HTTP")
        protocol.connection_lost(None)
        await asyncio.sleep(0)

    asyncio.run(heard())
    assert begun == [("CONNECT", "/b")]


def test_an_address_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ScclipError, match="another --port"):
        server_module._listen("127.0.0.1", taken.getsockname()[1], "--port")
