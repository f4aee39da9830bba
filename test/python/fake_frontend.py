"""A Temporal frontend on 127.0.0.1 that answers as it is told to.

Plays the frontend for one worker under test: gRPC over HTTP/2 without TLS (prior
knowledge), tasks handed out as they are given, and faults of transport, gRPC and
protobuf on demand. It writes down every call, and what became of it.

It listens on the port that is its argument. It is driven by JSON lines: one request a
line on standard input, one answer a line on standard output. First it says that it
listens: {"port": N}, or {"error": "text"}. It ends when its standard input does.
An answer is {"result": ...} or {"error": "text"}. The requests are the methods of
Control below, named by "do", the other keys being their arguments; times are seconds.

A fault is {"kind": name, "rpc": which, ...}; the kinds are the functions of Fault.
"rpc" may be a pattern such as "Respond*". To every kind belong:
  count    how many calls it is for; without it, all until "clear"
  queue    of polls: those of this task queue only
  wait     seconds to wait first
  effect   true: do what was asked for (a poll: wait for a task and take it), and spoil
           the good answer; otherwise it is an empty message that is spoiled. Such a
           poll gets the next task before all others

How connections are treated as a whole is "accept": see ACCEPT.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import dataclasses
import fnmatch
import itertools
import json
import random
import re
import socket
import struct
import sys
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hyperframe.frame
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from temporalio.api.workflowservice import v1 as service

JSON = dict[str, Any]
Headers = list[tuple[str, str]]

LOCALHOST = "127.0.0.1"
PATH = "/temporal.api.workflowservice.v1.WorkflowService/"
POLLS = ("PollWorkflowTaskQueue", "PollActivityTaskQueue")
RPCS = POLLS + (
    "GetSystemInfo",
    "DescribeNamespace",
    "RespondWorkflowTaskCompleted",
    "RespondWorkflowTaskFailed",
    "RespondQueryTaskCompleted",
    "RespondActivityTaskCompleted",
    "RespondActivityTaskFailed",
    "RespondActivityTaskCanceled",
    "RecordActivityTaskHeartbeat",
    "GetWorkflowExecutionHistory",
    "ShutdownWorker",
)

# gRPC statuses that are given here
INVALID_ARGUMENT = 3
NOT_FOUND = 5
UNIMPLEMENTED = 12
INTERNAL = 13

# error codes of HTTP/2
CANCEL = 8

# What may become of a new connection.
ACCEPT = (
    "serve",  # HTTP/2
    "close",  # is closed before a byte was read
    "reset",  # the same, by a TCP reset
    "silent",  # everything is read, nothing is said
    "settings",  # the greeting of HTTP/2, then nothing
    "http1",  # whatever is asked, an HTTP/1.1 server refuses it
    "garbage",  # random bytes
)


class Refusal(Exception):
    """A call that is answered with a gRPC status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def request_class(rpc: str) -> Any:
    return getattr(service, f"{rpc}Request")


def response_class(rpc: str) -> Any:
    return getattr(service, f"{rpc}Response")


def serialized(message: Message) -> bytes:
    return bytes(message.SerializeToString())


def framed(message: bytes, flag: int = 0, length: int | None = None) -> bytes:
    """A message behind its prefix, as gRPC sends it."""
    return struct.pack(">BI", flag, len(message) if length is None else length) + message


def percent_encoded(text: str) -> str:
    return urllib.parse.quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")


def timeout_seconds(text: str) -> float | None:
    match = re.fullmatch(r"(\d{1,8})([HMSmun])", text)
    if match is None:
        return None
    unit = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}[match[2]]
    return int(match[1]) * unit


# ----------------------------------------------------------- protobuf, spoiled


def varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(tag: int, value: bytes) -> bytes:
    """A field of bytes, a string, or a message."""
    return varint(tag << 3 | 2) + varint(len(value)) + value


def number(tag: int, value: int) -> bytes:
    return varint(tag << 3) + varint(value)


def nested(tag: int, depth: int) -> bytes:
    """A message within itself, written from its innermost outwards."""
    prefixes: list[bytes] = []
    size = 0
    for _ in range(depth):
        prefix = varint(tag << 3 | 2) + varint(size)
        prefixes.append(prefix)
        size += len(prefix)
    return b"".join(reversed(prefixes))


class Garbage:
    """Bytes in the place of a message. Each takes the good one and what the fault says."""

    @staticmethod
    def random(good: bytes, fault: JSON) -> bytes:
        return bytes(random.Random(fault.get("seed", 1)).randbytes(fault.get("bytes", 1000)))

    @staticmethod
    def truncated(good: bytes, fault: JSON) -> bytes:
        return good[: len(good) * 2 // 3] if good else b"\x0a\x10half"

    @staticmethod
    def flipped(good: bytes, fault: JSON) -> bytes:
        """One bit in a hundred is another one."""
        dice = random.Random(fault.get("seed", 1))
        bits = (sum(1 << i for i in range(8) if dice.random() < 0.01) for _ in good)
        return bytes(b ^ bit for b, bit in zip(good, bits))

    @staticmethod
    def nested(good: bytes, fault: JSON) -> bytes:
        """The cause of the cause ... of a failure, in an event of the history."""
        failure = nested(4, fault.get("depth", 100_000))
        event = field(18, field(1, failure))
        return good + field(8, field(1, event))

    @staticmethod
    def nested_unknown(good: bytes, fault: JSON) -> bytes:
        """Groups, which no message of Temporal's has, within each other."""
        depth: int = fault.get("depth", 100_000)
        return good + varint(90 << 3 | 3) * depth + varint(90 << 3 | 4) * depth

    @staticmethod
    def many(good: bytes, fault: JSON) -> bytes:
        """Events of two bytes, which are some hundred each in memory."""
        return good + field(8, field(1, b"") * fault.get("events", 2_000_000))

    @staticmethod
    def length(good: bytes, fault: JSON) -> bytes:
        """A string that claims to be longer than all that is there."""
        return good + b"\x1a" + varint(fault.get("claim", 2**32 - 1)) + b"x"

    @staticmethod
    def varint(good: bytes, fault: JSON) -> bytes:
        """A number that has no end."""
        return good + b"\x20" + b"\xff" * 50

    @staticmethod
    def field_zero(good: bytes, fault: JSON) -> bytes:
        return good + b"\x02\x01x"

    @staticmethod
    def wire_types(good: bytes, fault: JSON) -> bytes:
        """Numbers where messages belong, and the other way round."""
        return good + b"\x10\x01\x18\x01" + field(4, b"x") + field(5, b"y") + b"\x40\x01"

    @staticmethod
    def text(good: bytes, fault: JSON) -> bytes:
        """A workflow task whose texts are no text: no UTF-8, zeros, control characters; but its
        type may be "type", and its input "input"."""
        junk = b"\xff\xfe\x00\x1b[2J\xe2\x80\xae\xc3"
        name = fault["type"].encode() if "type" in fault else junk
        kind = field(1, name)
        encoding = field(1, field(1, b"encoding") + field(2, b"json/plain"))
        payload = encoding + field(2, fault.get("input", "").encode() or junk)
        attributes = field(1, kind) + field(6, field(1, payload)) + field(14, junk)
        started = number(1, 1) + number(3, 1) + field(6, attributes)
        scheduled = number(1, 2) + number(3, 5) + field(10, b"")
        task_started = number(1, 3) + number(3, 6) + field(11, b"")
        return (field(1, name + junk) + field(2, field(1, junk) + field(2, junk))
                + field(3, kind) + number(5, 3) + number(6, 1)
                + field(8, b"".join(field(1, e) for e in (started, scheduled, task_started))))

    @staticmethod
    def unknown(good: bytes, fault: JSON) -> bytes:
        """Fields that are newer than the reader: harmless."""
        return good + field(3000, b"x" * 100) + number(3001, 7)


# ------------------------------------------------------------------ the server


@dataclasses.dataclass
class Task:
    """A task as it is handed out, and the run it belongs to when it is a workflow's."""

    rpc: str
    queue: str
    message: Any
    identity: str = ""


class Stream:
    """One call."""

    def __init__(self, connection: Connection, number: int, headers: dict[str, str]) -> None:
        self.connection = connection
        self.number = number
        self.headers = headers
        self.body = bytearray()
        self.rpc = headers.get(":path", "").removeprefix(PATH)
        self.request: Any = None
        self.ended = False
        self.answering: asyncio.Task[None] | None = None

    @property
    def frontend(self) -> Frontend:
        return self.connection.frontend

    @property
    def identity(self) -> str:
        return getattr(self.request, "identity", "")

    @property
    def is_poll(self) -> bool:
        return self.rpc in POLLS

    @property
    def queue(self) -> str:
        return self.request.task_queue.name if self.is_poll else ""

    @property
    def deadline(self) -> float:
        return timeout_seconds(self.headers.get("grpc-timeout", "")) or 3600.0

    def end(self, how: str, **more: Any) -> None:
        """Write down what became of the call; only the first is true."""
        if self.ended:
            return
        self.ended = True
        self.frontend.open_streams.discard(self)
        self.frontend.note("end", connection=self.connection.number, stream=self.number,
                           rpc=self.rpc, how=how, **more)

    # -- what can be sent; "answered" or the fault is the end of all of them

    def send_headers(self, headers: Headers, end: bool = False) -> None:
        self.connection.h2.send_headers(self.number, headers, end_stream=end)
        self.connection.flush()

    async def send_body(self, data: bytes, end: bool = False, delay: float | None = None) -> None:
        """Send as fast as the client takes it, or byte by byte."""
        connection = self.connection
        sent = 0
        while sent < len(data):
            window = min(connection.h2.local_flow_control_window(self.number),
                         connection.h2.max_outbound_frame_size)
            if window <= 0:
                connection.window.clear()
                await connection.window.wait()
                continue
            size = min(window, 1 if delay is not None else len(data) - sent)
            connection.h2.send_data(self.number, data[sent : sent + size])
            connection.flush()
            sent += size
            if delay is not None:
                await asyncio.sleep(delay)
            else:
                await connection.drained.wait()
        if end:
            connection.h2.end_stream(self.number)
            connection.flush()

    async def send_answer(self, message: bytes) -> None:
        """In one piece if possible, as gRPC's servers do. In several, libcurl 7.88 loses not
        just the trailers after a GOAWAY, but sometimes the message as well."""
        connection = self.connection.h2
        data = framed(message)
        if len(data) <= min(connection.local_flow_control_window(self.number),
                            connection.max_outbound_frame_size):
            connection.send_headers(self.number, GRPC_HEADERS)
            connection.send_data(self.number, data)
        else:
            self.send_headers(GRPC_HEADERS)
            await self.send_body(data)
        self.send_headers([("grpc-status", "0")], end=True)

    def send_status(self, code: int | str, message: str | bytes) -> None:
        """An answer that is nothing but a status ("trailers-only")."""
        text = percent_encoded(message) if isinstance(message, str) else message
        headers: list[Any] = [*GRPC_HEADERS, ("grpc-status", str(code)), ("grpc-message", text)]
        self.send_headers(headers, end=True)

    def reset(self, code: int = CANCEL) -> None:
        self.connection.h2.reset_stream(self.number, error_code=code)
        self.connection.flush()


GRPC_HEADERS: Headers = [(":status", "200"), ("content-type", "application/grpc")]


class Connection(asyncio.Protocol):
    def __init__(self, frontend: Frontend) -> None:
        self.frontend = frontend
        self.number = next(frontend.connection_numbers)
        self.accept = frontend.accept
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(
            client_side=False,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        ))
        self.streams: dict[int, Stream] = {}
        self.window = asyncio.Event()
        self.drained = asyncio.Event()
        self.drained.set()
        self.transport: Any = None
        self.received = False

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.frontend.connections.add(self)
        self.frontend.note("open", connection=self.number, accept=self.accept)
        if self.accept == "close":
            self.transport.close()
        elif self.accept == "reset":
            self.abort()
        elif self.accept == "garbage":
            self.transport.write(random.Random(1).randbytes(5000))
        elif self.accept in ("serve", "settings"):
            self.h2.initiate_connection()
            self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.frontend.connections.discard(self)
        for stream in list(self.streams.values()):
            self.forget(stream, "connection closed")
        self.frontend.note("close", connection=self.number)

    def pause_writing(self) -> None:
        self.drained.clear()

    def resume_writing(self) -> None:
        self.drained.set()

    def data_received(self, data: bytes) -> None:
        if self.accept == "http1":
            if not self.received:
                body = b"<html><body>400 Bad Request</body></html>\n"
                self.transport.write(
                    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n"
                    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
                self.transport.close()
            self.received = True
            return
        if self.accept != "serve":
            return
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self.frontend.violation(f"HTTP/2: {error}")
            self.flush()
            self.transport.close()
            return
        for event in events:
            self.on_event(event)
        self.flush()

    # -- HTTP/2

    def on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            headers = {str(name): str(value) for name, value in event.headers or []}
            self.streams[event.stream_id] = Stream(self, event.stream_id, headers)
        elif isinstance(event, h2.events.DataReceived):
            self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
            if stream := self.streams.get(event.stream_id):
                stream.body += event.data or b""
        elif isinstance(event, h2.events.StreamEnded):
            if stream := self.streams.get(event.stream_id):
                stream.answering = asyncio.create_task(self.frontend.answer(stream))
        elif isinstance(event, h2.events.StreamReset):
            if stream := self.streams.get(event.stream_id):
                self.forget(stream, "stream reset")
        elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
            self.window.set()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def send_raw(self, frame: hyperframe.frame.Frame) -> None:
        """A frame after which h2 itself would say no more."""
        self.flush()
        self.transport.write(frame.serialize())

    def goaway(self, last_stream: int) -> None:
        self.send_raw(hyperframe.frame.GoAwayFrame(
            0, last_stream_id=last_stream, error_code=0, additional_data=b"max_age"))

    def abort(self) -> None:
        """End by a TCP reset."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def forget(self, stream: Stream, how: str) -> None:
        """The client went away from a call."""
        self.streams.pop(stream.number, None)
        stream.end(how)
        if stream.answering is not None:
            stream.answering.cancel()


class Frontend:
    def __init__(self) -> None:
        self.started = time.monotonic()
        self.connection_numbers = itertools.count(1)
        self.tokens = itertools.count(1)
        self.connections: set[Connection] = set()
        self.open_streams: set[Stream] = set()
        self.log: list[JSON] = []
        self.violations: list[str] = []
        self.accept = "serve"
        self.faults: list[JSON] = []
        self.poll_hold = 60.0
        self.heartbeat: JSON = {}
        self.shutdown_ends_polls = False
        self.tasks: dict[tuple[str, str], collections.deque[Task]] = collections.defaultdict(
            collections.deque)
        self.waiting: dict[tuple[str, str], collections.deque[asyncio.Future[bool]]] = (
            collections.defaultdict(collections.deque))
        self.held: dict[bytes, Task] = {}
        self.pages: dict[bytes, Any] = {}
        self.peaks: dict[str, JSON] = {}

    # -- what happened

    def note(self, event: str, **more: Any) -> None:
        self.log.append({"event": event, "n": len(self.log),
                         "time": round(time.monotonic() - self.started, 3), **more})

    def violation(self, text: str) -> None:
        """The worker did what no gRPC client may."""
        self.violations.append(text)
        self.note("violation", text=text)

    def count(self, identity: str) -> None:
        """Keep the highest number of open polls of a worker, and of polls and tasks."""
        polls = sum(1 for s in self.open_streams if s.is_poll and s.identity == identity)
        tasks = sum(1 for t in self.held.values() if t.identity == identity)
        peak = self.peaks.setdefault(identity, {"polls": 0, "tasks": 0, "load": 0})
        peak["polls"] = max(peak["polls"], polls)
        peak["tasks"] = max(peak["tasks"], tasks)
        peak["load"] = max(peak["load"], polls + tasks)

    # -- a call

    async def answer(self, stream: Stream) -> None:
        self.open_streams.add(stream)
        try:
            try:
                self.read_request(stream)
                fault = self.take_fault(stream)
                if fault is None:
                    await stream.send_answer(await self.reply(stream))
                    stream.end("answered")
                else:
                    await self.spoil(stream, fault)
                    stream.end("fault", kind=fault["kind"])
            except Refusal as refusal:
                stream.send_status(refusal.code, refusal.message)
                stream.end("refused", code=refusal.code, message=refusal.message)
        except h2.exceptions.ProtocolError as error:
            # the client is about to be gone: what it does is noted elsewhere
            stream.end("not sent", text=str(error))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # a defect of ours must not look like the worker's
            self.violation(f"fake_frontend: {type(error).__name__}: {error}")
            raise
        finally:
            self.open_streams.discard(stream)
            if stream.ended:
                stream.connection.streams.pop(stream.number, None)

    def read_request(self, stream: Stream) -> None:
        headers = stream.headers
        wanted = {":method": "POST", ":scheme": "http", "te": "trailers",
                  "content-type": "application/grpc"}
        for name, value in wanted.items():
            if headers.get(name) != value:
                self.violation(f"{stream.rpc}: {name} is {headers.get(name)!r}")
        if timeout_seconds(headers.get("grpc-timeout", "")) is None:
            self.violation(f"{stream.rpc}: grpc-timeout is {headers.get('grpc-timeout')!r}")

        problem = ""
        if stream.rpc not in RPCS:
            self.note("rpc", connection=stream.connection.number, stream=stream.number,
                      rpc=stream.rpc, headers=headers)
            raise Refusal(UNIMPLEMENTED, f"unknown method {stream.rpc}")
        if len(stream.body) < 5:
            problem = "no whole prefix"
        elif stream.body[0] != 0:
            problem = f"flag {stream.body[0]}"
        elif struct.unpack(">I", stream.body[1:5])[0] != len(stream.body) - 5:
            problem = "not exactly one message"
        else:
            try:
                stream.request = request_class(stream.rpc).FromString(bytes(stream.body[5:]))
            except DecodeError as error:
                problem = str(error)
        if problem:
            self.violation(f"{stream.rpc}: {problem}")
            raise Refusal(INTERNAL, problem)
        self.note("rpc", connection=stream.connection.number, stream=stream.number,
                  rpc=stream.rpc, headers=headers, bytes=len(stream.body) - 5,
                  request=json_format.MessageToDict(stream.request))
        if stream.is_poll:
            self.count(stream.identity)

    async def reply(self, stream: Stream, first: bool = False) -> bytes:
        """The good answer; a poll may be the first one that gets a task."""
        request = stream.request
        if stream.is_poll:
            return await self.poll(stream, first)
        if stream.rpc == "GetSystemInfo":
            return serialized(service.GetSystemInfoResponse(server_version="1.29.1"))
        if stream.rpc == "DescribeNamespace":
            info = {"name": request.namespace, "state": "NAMESPACE_STATE_REGISTERED"}
            return serialized(json_format.ParseDict(
                {"namespaceInfo": info}, service.DescribeNamespaceResponse()))
        if stream.rpc == "GetWorkflowExecutionHistory":
            if request.next_page_token not in self.pages:
                raise Refusal(INVALID_ARGUMENT, "Invalid NextPageToken.")
            return serialized(self.pages[request.next_page_token])
        if stream.rpc == "ShutdownWorker":
            if self.shutdown_ends_polls:
                self.end_polls()
            return serialized(service.ShutdownWorkerResponse())
        if stream.rpc == "RecordActivityTaskHeartbeat":
            self.holder(request.task_token)
            return serialized(json_format.ParseDict(
                self.heartbeat, service.RecordActivityTaskHeartbeatResponse()))

        # what is left answers a task, which is then nobody's any more
        task = self.holder(request.task_token)
        forced = getattr(request, "force_create_new_workflow_task", False)
        if forced and not request.return_new_workflow_task:
            raise Refusal(UNIMPLEMENTED, "not played: a new task that is not returned")
        del self.held[request.task_token]
        response = response_class(stream.rpc)()
        if forced:
            following = self.following(task)
            self.held[following.message.task_token] = following
            response.workflow_task.CopyFrom(following.message)
        return serialized(response)

    def holder(self, token: bytes) -> Task:
        if token not in self.held:
            raise Refusal(NOT_FOUND, "Workflow task not found.")
        return self.held[token]

    # -- tasks

    def offer(self, task: Task) -> None:
        key = (task.rpc, task.queue)
        self.tasks[key].append(task)
        self.wake(key)

    def wake(self, key: tuple[str, str]) -> None:
        """Let the poll that has waited longest look again."""
        while self.waiting[key]:
            waiter = self.waiting[key].popleft()
            if not waiter.done():
                waiter.set_result(True)
                return

    def end_polls(self) -> None:
        for waiters in self.waiting.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(False)
            waiters.clear()

    async def poll(self, stream: Stream, first: bool) -> bytes:
        """The next task, or an answer without one before the deadline comes."""
        key = (stream.rpc, stream.queue)
        until = time.monotonic() + min(self.poll_hold, max(stream.deadline - 1.0, 0.1))
        go_on = True
        while not self.tasks[key] and go_on:
            waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            if first:
                self.waiting[key].appendleft(waiter)
            else:
                self.waiting[key].append(waiter)
            try:
                go_on = await asyncio.wait_for(waiter, max(until - time.monotonic(), 0.0))
            except TimeoutError:
                go_on = False
            except asyncio.CancelledError:
                # woken and gone in one moment: the task is the next one's
                if waiter.done() and not waiter.cancelled():
                    self.wake(key)
                raise
        if not self.tasks[key]:
            return serialized(response_class(stream.rpc)())
        task = self.tasks[key].popleft()
        task.identity = stream.identity
        self.held[task.message.task_token] = task
        self.open_streams.discard(stream)
        self.count(stream.identity)
        return serialized(task.message)

    def following(self, task: Task) -> Task:
        """The workflow task that comes of one answered with a wish for another: the
        events since, as the server gives them to whoever kept the others."""
        message = service.PollWorkflowTaskQueueResponse()
        message.CopyFrom(task.message)
        message.task_token = self.new_token()
        message.previous_started_event_id = task.message.started_event_id
        message.started_event_id = task.message.started_event_id + 3
        message.attempt = 1
        message.ClearField("history")
        message.ClearField("queries")
        message.ClearField("next_page_token")
        started = task.message.started_event_id
        attributes = {
            "COMPLETED": {"scheduledEventId": str(started - 1), "startedEventId": str(started)},
            "SCHEDULED": {"attempt": 1},
            "STARTED": {"scheduledEventId": str(started + 2)},
        }
        for n, (kind, values) in enumerate(attributes.items(), start=1):
            event = message.history.events.add()
            json_format.ParseDict({
                "eventId": str(started + n),
                "eventType": f"EVENT_TYPE_WORKFLOW_TASK_{kind}",
                f"workflowTask{kind.capitalize()}EventAttributes": values,
            }, event)
            event.event_time.GetCurrentTime()
        return Task(task.rpc, task.queue, message, task.identity)

    def new_token(self) -> bytes:
        return b"token-%d" % next(self.tokens)

    # -- faults

    def take_fault(self, stream: Stream) -> JSON | None:
        for fault in self.faults:
            if not fnmatch.fnmatchcase(stream.rpc, fault["rpc"]):
                continue
            if fault.get("queue", stream.queue) != stream.queue:
                continue
            if fault.get("count") is not None:
                fault["count"] -= 1
                if fault["count"] <= 0:
                    self.faults.remove(fault)
            return fault
        return None

    async def spoil(self, stream: Stream, fault: JSON) -> None:
        if fault.get("wait"):
            await asyncio.sleep(fault["wait"])
        good = await self.reply(stream, first=True) if fault.get("effect") else b""
        await getattr(Fault, fault["kind"])(stream, fault, good)


class Fault:
    """The kinds of faults, each with the keys that it has beside those of all."""

    @staticmethod
    async def status(stream: Stream, fault: JSON, good: bytes) -> None:
        """A gRPC status: code, message; "encoded" false: as it stands, not percent-encoded;
        "how": "trailers-only" (default), "trailers" (behind headers of their own), "body"
        (behind a message)."""
        how = fault.get("how", "trailers-only")
        text = fault.get("message", "")
        message = text if fault.get("encoded", True) else text.encode()
        if how == "trailers-only":
            stream.send_status(fault["code"], message)
            return
        stream.send_headers(GRPC_HEADERS)
        if how == "body":
            await stream.send_body(framed(good))
        stream.send_headers([("grpc-status", str(fault["code"])),
                             ("grpc-message", percent_encoded(text))], end=True)

    @staticmethod
    async def http(stream: Stream, fault: JSON, good: bytes) -> None:
        """What stands between us and the server answers: status, type, body."""
        stream.send_headers([(":status", str(fault["status"])),
                             ("content-type", fault.get("type", "text/html"))])
        body = fault.get("body", f"<html><body>{fault['status']}</body></html>\n")
        await stream.send_body(body.encode(), end=True)

    @staticmethod
    async def no_status(stream: Stream, fault: JSON, good: bytes) -> None:
        """An answer without trailers, of "frames" messages (1)."""
        stream.send_headers(GRPC_HEADERS)
        await stream.send_body(framed(good) * fault.get("frames", 1), end=True)

    @staticmethod
    async def content_type(stream: Stream, fault: JSON, good: bytes) -> None:
        """A good answer of another type ("type"; none: without one)."""
        headers = [(":status", "200")]
        if fault.get("type") is not None:
            headers.append(("content-type", fault["type"]))
        stream.send_headers(headers)
        await stream.send_body(framed(good))
        stream.send_headers([("grpc-status", "0")], end=True)

    @staticmethod
    async def frame(stream: Stream, fault: JSON, good: bytes) -> None:
        """Other framing and a good status: "flag", "length" (claimed), "frames", "cut" (only
        so many bytes are sent), "extra" (bytes behind the message)."""
        length = fault.get("length")
        data = framed(good, fault.get("flag", 0), length) * fault.get("frames", 1)
        data = data[: fault["cut"]] if "cut" in fault else data
        stream.send_headers(GRPC_HEADERS)
        await stream.send_body(data + b"x" * fault.get("extra", 0))
        stream.send_headers([("grpc-status", "0")], end=True)

    @staticmethod
    async def huge(stream: Stream, fault: JSON, good: bytes) -> None:
        """A message of "mib" MiB, or that claims to have "length" bytes."""
        size = fault["mib"] << 20
        stream.send_headers(GRPC_HEADERS)
        await stream.send_body(framed(b"", length=fault.get("length", size)))
        for _ in range(fault["mib"]):
            await stream.send_body(bytes(1 << 20))
        stream.send_headers([("grpc-status", "0")], end=True)

    @staticmethod
    async def headers(stream: Stream, fault: JSON, good: bytes) -> None:
        """"n" more headers of "bytes" bytes each."""
        more = [(f"x-{i}", "x" * fault.get("bytes", 100)) for i in range(fault["n"])]
        stream.send_headers([*GRPC_HEADERS, *more])
        await stream.send_body(framed(good))
        stream.send_headers([("grpc-status", "0")], end=True)

    @staticmethod
    async def garbage(stream: Stream, fault: JSON, good: bytes) -> None:
        """A whole frame and a good status, but the message is one of Garbage ("what")."""
        spoiler: Callable[[bytes, JSON], bytes] = getattr(Garbage, fault["what"])
        await stream.send_answer(spoiler(good, fault))

    @staticmethod
    async def message(stream: Stream, fault: JSON, good: bytes) -> None:
        """Another message, given as "base64"."""
        await stream.send_answer(base64.b64decode(fault["base64"]))

    @staticmethod
    async def reset(stream: Stream, fault: JSON, good: bytes) -> None:
        """RST_STREAM, after "after" (nothing, headers, body); "code" of HTTP/2 (CANCEL)."""
        await begin(stream, fault.get("after", "headers"), good)
        stream.reset(fault.get("code", CANCEL))

    @staticmethod
    async def close(stream: Stream, fault: JSON, good: bytes) -> None:
        """The connection is closed, after the same; "tcp_reset": not in good order."""
        await begin(stream, fault.get("after", "nothing"), good)
        stream.end("fault", kind="close")
        if fault.get("tcp_reset"):
            stream.connection.abort()
        else:
            stream.connection.transport.close()

    @staticmethod
    async def goaway(stream: Stream, fault: JSON, good: bytes) -> None:
        """The server's age limit during a poll: two GOAWAYs as gRPC sends them when the call
        comes; the whole answer with its trailers follows when there is a task."""
        stream.connection.goaway(2**31 - 1)
        await asyncio.sleep(0.05)
        stream.connection.goaway(stream.number)
        await asyncio.sleep(fault.get("then", 0.2))
        await stream.send_answer(await stream.frontend.reply(stream, first=True))
        stream.connection.transport.close()

    @staticmethod
    async def hang(stream: Stream, fault: JSON, good: bytes) -> None:
        """No more is said, after the same; not even when the deadline has passed."""
        await begin(stream, fault.get("after", "nothing"), good)
        await asyncio.get_running_loop().create_future()

    @staticmethod
    async def deadline(stream: Stream, fault: JSON, good: bytes) -> None:
        """No answer; at the deadline the server resets the stream."""
        await asyncio.sleep(stream.deadline)
        stream.reset(CANCEL)

    @staticmethod
    async def drip(stream: Stream, fault: JSON, good: bytes) -> None:
        """A good answer byte by byte, "delay" seconds between them."""
        stream.send_headers(GRPC_HEADERS)
        await stream.send_body(framed(good), delay=fault.get("delay", 0.01))
        stream.send_headers([("grpc-status", "0")], end=True)


async def begin(stream: Stream, after: str, good: bytes) -> None:
    """The beginning of an answer, up to a point."""
    if after == "nothing":
        return
    stream.send_headers(GRPC_HEADERS)
    if after == "body":
        data = framed(good, length=max(len(good), 1000))
        await stream.send_body(data[: max(6, len(data) // 2)])
    elif after != "headers":
        raise ValueError(f"after {after!r}")
    # let the client see it before what comes next
    await asyncio.sleep(0.05)


# ---------------------------------------------------------------- driven by


class Control:
    """What the test can ask for."""

    def __init__(self, frontend: Frontend, port: int) -> None:
        self.frontend = frontend
        self.server: asyncio.Server | None = None
        self.port = port

    async def listen(self) -> JSON:
        """Listen, also again."""
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(
            lambda: Connection(self.frontend), LOCALHOST, self.port, reuse_address=True)
        return {"port": self.port}

    async def down(self) -> None:
        """Listen no more and close every connection."""
        if self.server is not None:
            self.server.close()
            self.server = None
        await self.sever()

    async def sever(self) -> int:
        """Close every connection; tells how many."""
        connections = list(self.frontend.connections)
        for connection in connections:
            connection.transport.close()
        return len(connections)

    async def goaway(self) -> int:
        """Send the server's age limit on every connection; open calls go on."""
        connections = [c for c in self.frontend.connections if c.accept == "serve"]
        for connection in connections:
            connection.goaway(2**31 - 1)
        await asyncio.sleep(0.05)
        for connection in connections:
            if not connection.transport.is_closing():
                connection.goaway(connection.h2.highest_inbound_stream_id)
        return len(connections)

    async def accept(self, how: str) -> None:
        if how not in ACCEPT:
            raise ValueError(f"accept {how!r}")
        self.frontend.accept = how

    async def set(self, poll_hold: float | None = None, heartbeat: JSON | None = None,
                  shutdown_ends_polls: bool | None = None) -> None:
        """How long polls stay open, the answer to heartbeats, whether ShutdownWorker ends polls."""
        if poll_hold is not None:
            self.frontend.poll_hold = poll_hold
        if heartbeat is not None:
            self.frontend.heartbeat = heartbeat
        if shutdown_ends_polls is not None:
            self.frontend.shutdown_ends_polls = shutdown_ends_polls

    async def fault(self, **fault: Any) -> None:
        if not isinstance(vars(Fault).get(fault.get("kind", "")), staticmethod):
            raise ValueError(f"kind {fault.get('kind')!r}")
        if not fnmatch.filter(RPCS, fault.get("rpc", "")):
            raise ValueError(f"rpc {fault.get('rpc')!r}")
        if fault["kind"] == "garbage":
            getattr(Garbage, fault["what"])
        self.frontend.faults.append(fault)

    async def clear(self) -> int:
        """Forget the faults; tells how many were left."""
        left = len(self.frontend.faults)
        self.frontend.faults.clear()
        return left

    async def left(self) -> int:
        """Faults that still wait for a call."""
        return len(self.frontend.faults)

    async def task(self, rpc: str, queue: str, message: JSON | None = None,
                   as_bytes: str = "", pages: list[JSON] | None = None) -> JSON:
        """Hand out a task to the next poll: the answer in protobuf's JSON, or its bytes in base64.
        It gets a token if it has none. Further "pages" are histories that it has to fetch."""
        if rpc not in POLLS:
            raise ValueError(f"rpc {rpc!r}")
        response: Any = response_class(rpc)()
        if message is not None:
            json_format.ParseDict(message, response)
        else:
            response.ParseFromString(base64.b64decode(as_bytes))
        if not response.task_token:
            response.task_token = self.frontend.new_token()
        last = response
        for n, history in enumerate(pages or [], start=1):
            last.next_page_token = b"page-%d of " % n + response.task_token
            page = service.GetWorkflowExecutionHistoryResponse()
            json_format.ParseDict(history, page.history)
            self.frontend.pages[last.next_page_token] = page
            last = page
        self.frontend.offer(Task(rpc, queue, response))
        return {"taskToken": base64.b64encode(response.task_token).decode()}

    async def waiting_tasks(self) -> int:
        """Tasks that nobody has fetched."""
        return sum(len(tasks) for tasks in self.frontend.tasks.values())

    async def held_tasks(self) -> list[JSON]:
        """Tasks that were fetched and not answered."""
        return [{"taskToken": base64.b64encode(token).decode(), "identity": task.identity,
                 "rpc": task.rpc, "queue": task.queue}
                for token, task in self.frontend.held.items()]

    async def forget_tasks(self) -> int:
        """Take back every task; an answer that comes all the same finds none."""
        count = len(self.frontend.held) + await self.waiting_tasks()
        self.frontend.held.clear()
        self.frontend.tasks.clear()
        return count

    async def open(self) -> list[JSON]:
        """Calls that wait for an answer."""
        return [{"connection": s.connection.number, "stream": s.number, "rpc": s.rpc,
                 "queue": s.queue, "identity": s.identity}
                for s in self.frontend.open_streams]

    async def connections(self) -> list[int]:
        return sorted(c.number for c in self.frontend.connections)

    async def peaks(self, forget: bool = False) -> JSON:
        """For each identity the most polls that were open at once, the most tasks held, and the
        most of both together, since the last call with "forget"."""
        peaks = dict(self.frontend.peaks)
        if forget:
            self.frontend.peaks.clear()
        return peaks

    async def log(self, since: int = 0) -> list[JSON]:
        """What happened, from entry "since" on."""
        return self.frontend.log[since:]

    async def now(self) -> float:
        """The time as the log has it."""
        return time.monotonic() - self.frontend.started

    async def violations(self) -> list[str]:
        return self.frontend.violations

    async def do(self, line: bytes) -> JSON:
        try:
            arguments = json.loads(line)
            name = arguments.pop("do")
            if name == "do" or name.startswith("_"):
                raise ValueError(f"do {name!r}")
            return {"result": await getattr(self, name)(**arguments)}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}


async def main() -> None:
    control = Control(Frontend(), int(sys.argv[1]))
    try:
        print(json.dumps(await control.listen()), flush=True)
    except OSError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return

    reader = asyncio.StreamReader(limit=256 << 20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(json.dumps(await control.do(line)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
