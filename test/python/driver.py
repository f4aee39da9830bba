"""Drive a Temporal server for the Perl tests, as Opdata::Temporal asks for it.

    driver.py ADDRESS NAMESPACE [SIGN-IN]

SIGN-IN is a JSON object: "ca", "cert", "key" (files) and "server_name" for TLS,
"authorization" for the header of that name. Without "ca" there is no TLS.

One line of JSON on standard input is one request, one on standard output one
answer. Requests run side by side, answers come as they are ready:

    {"id": 1, "op": "start", "timeout": 30, "args": {"type": "w", "workflow_id": "x", "task_queue": "q"}}
    {"id": 1, "value": {"workflow_id": "x", "run_id": "..."}}
    {"id": 2, "error": {"class": "RPCError", "type": "NOT_FOUND", "message": "..."}}

Each request ends within its timeout, with an error of class RequestTimeout if
nothing else. Times are seconds. The operations are the methods of Operations,
described for their callers in Opdata::Temporal. The process ends with its
standard input.
"""

import asyncio
import base64
import inspect
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.history.v1 import History
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeWorkflowExecutionRequest,
    ListWorkflowExecutionsRequest,
    RegisterNamespaceRequest,
)
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleOverlapPolicy,
    ScheduleSpec,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, ServerError
from temporalio.exceptions import TimeoutError as TemporalTimeoutError
from temporalio.service import RPCError, RPCStatusCode, TLSConfig

# What histories show of it.
IDENTITY = "opdata-test-driver"

# While a result is waited for, the question is asked anew this often: the
# server may miss to tell a waiting client of a run that closes just then.
ASK_AGAIN = 5.0

# How long after its timeout a request that does not end by itself is ended.
GRACE = 2.0

# The server is away, or comes up, or goes down: ask again.
AWAY = (RPCStatusCode.UNAVAILABLE, RPCStatusCode.CANCELLED, RPCStatusCode.UNKNOWN, RPCStatusCode.DEADLINE_EXCEEDED)


class RequestTimeout(Exception):
    """A request was not done within its timeout."""


# ---------------------------------------------------------------- to JSON


def error_of(error: BaseException) -> dict[str, Any]:
    """An exception and its causes. That a workflow or an update failed says
    nothing that its cause does not say."""
    if isinstance(error, (WorkflowFailureError, WorkflowUpdateFailedError)) and error.__cause__:
        error = error.__cause__

    told: dict[str, Any] = {
        "class": type(error).__name__,
        "type": None,
        "message": getattr(error, "message", None) or str(error),
        "non_retryable": None,
        "cause": None,
    }
    if isinstance(error, ApplicationError):
        told |= {"type": error.type, "non_retryable": error.non_retryable, "details": list(error.details)}
    elif isinstance(error, ServerError):
        told |= {"non_retryable": error.non_retryable}
    elif isinstance(error, TemporalTimeoutError):
        told |= {"type": error.type and error.type.name}
    elif isinstance(error, ActivityError):
        told |= {
            "type": error.activity_type,
            "activity_id": error.activity_id,
            "retry_state": error.retry_state and error.retry_state.name,
        }
    elif isinstance(error, RPCError):
        told |= {"type": error.status.name}
    if error.__cause__ and not isinstance(error, RPCError):
        told["cause"] = error_of(error.__cause__)
    return told


def plain(message: Message) -> Any:
    """A protobuf message as JSON: what is not set is absent, a payload is its
    value if it holds JSON, bytes are base64."""
    if isinstance(message, Payload):
        encoding = message.metadata.get("encoding", b"").decode()
        if encoding == "json/plain":
            return json.loads(message.data)
        if encoding == "binary/null":
            return None
        return {"encoding": encoding, "data": base64.b64encode(message.data).decode()}
    if isinstance(message, Payloads):
        return [plain(payload) for payload in message.payloads]
    if isinstance(message, Timestamp):
        return message.ToJsonString()
    if isinstance(message, Duration):
        return message.ToTimedelta().total_seconds()
    if isinstance(message, AnyMessage):
        return {"type_url": message.type_url, "value": base64.b64encode(message.value).decode()}

    told: dict[str, Any] = {}
    for field, value in message.ListFields():
        entry = field.message_type
        if entry and entry.GetOptions().map_entry:
            inner = entry.fields_by_name["value"]
            told[field.name] = {str(key): plain_value(inner, value[key]) for key in value}
        elif field.is_repeated:
            told[field.name] = [plain_value(field, item) for item in value]
        else:
            told[field.name] = plain_value(field, value)
    return told


def plain_value(field: Any, value: Any) -> Any:
    if field.message_type:
        return plain(value)
    if field.enum_type:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


# ---------------------------------------------------------------- from JSON


def seconds(value: float | None) -> timedelta | None:
    return None if value is None else timedelta(seconds=value)


def retry_policy_of(policy: dict[str, Any] | None) -> RetryPolicy | None:
    """Keys as RetryPolicy has them."""
    if policy is None:
        return None
    known = dict(policy)
    for key in ("initial_interval", "maximum_interval"):
        if key in known:
            known[key] = seconds(known[key])
    return RetryPolicy(**known)


def payload_of(described: dict[str, Any]) -> RawValue:
    """{"encoding": ..., "data": base64, "metadata": {further: text}}"""
    metadata = {key: text.encode() for key, text in described.get("metadata", {}).items()}
    if "encoding" in described:
        metadata["encoding"] = described["encoding"].encode()
    return RawValue(Payload(metadata=metadata, data=base64.b64decode(described.get("data", ""))))


NOTHING = object()


def arguments(input: Any, inputs: list[Any] | None, payloads: list[dict[str, Any]] | None) -> list[Any]:
    """One value, or several, or payloads as they shall be on the wire."""
    if payloads is not None:
        return [payload_of(described) for described in payloads]
    if inputs is not None:
        return inputs
    return [] if input is NOTHING else [input]


# ---------------------------------------------------------------- operations


class Operations:
    """Each public method is an operation; its parameters but the first two
    are the arguments that it takes."""

    # An operation of these never fails: how the call ended is its value.
    outcomes = ("result", "execute", "query", "update")

    def __init__(self, address: str, namespace: str, sign_in: dict[str, str]) -> None:
        self.address = address
        self.namespace = namespace
        self.tls = tls_of(**{name: sign_in[name] for name in sign_in if name != "authorization"})
        self.metadata = metadata_of(sign_in.get("authorization"))
        self.workers: dict[str, Any] = {}

    async def new_client(self, lazy: bool) -> Client:
        return await Client.connect(
            self.address,
            namespace=self.namespace,
            tls=self.tls,
            rpc_metadata=self.metadata,
            lazy=lazy,
            identity=IDENTITY,
        )

    async def connect(self) -> None:
        # lazy: the server may be down
        self.client = await self.new_client(lazy=True)

    def handle(self, workflow_id: str, run_id: str | None) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(workflow_id, run_id=run_id)

    async def start(
        self,
        deadline: float,
        type: str,
        workflow_id: str,
        task_queue: str,
        input: Any = NOTHING,
        inputs: list[Any] | None = None,
        payloads: list[dict[str, Any]] | None = None,
        task_timeout: float | None = None,
        run_timeout: float | None = None,
        execution_timeout: float | None = None,
        retry_policy: dict[str, Any] | None = None,
        cron_schedule: str = "",
        start_delay: float | None = None,
        memo: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        handle = await self.client.start_workflow(
            type,
            args=arguments(input, inputs, payloads),
            id=workflow_id,
            task_queue=task_queue,
            task_timeout=seconds(task_timeout),
            run_timeout=seconds(run_timeout),
            execution_timeout=seconds(execution_timeout),
            retry_policy=retry_policy_of(retry_policy),
            cron_schedule=cron_schedule,
            start_delay=seconds(start_delay),
            memo=memo,
            rpc_timeout=seconds(remaining(deadline)),
        )
        return {"workflow_id": workflow_id, "run_id": handle.result_run_id}

    async def result(
        self, deadline: float, workflow_id: str, run_id: str | None = None, follow_runs: bool = True
    ) -> dict[str, Any]:
        while True:
            # a handle remembers nothing, so that each turn asks from the start
            handle = self.handle(workflow_id, run_id)
            try:
                async with asyncio.timeout(min(ASK_AGAIN, remaining(deadline))):
                    return {"result": await handle.result(follow_runs=follow_runs)}
            except TimeoutError:
                continue
            except RPCError as error:
                if error.status not in AWAY:
                    raise
                await asyncio.sleep(0.2)

    async def execute(self, deadline: float, **start: Any) -> dict[str, Any]:
        begun = time.monotonic()
        started = await self.start(deadline, **start)
        told = await outcome(self.result(deadline, started["workflow_id"], started["run_id"]))
        return started | told | {"seconds": time.monotonic() - begun}

    async def execute_many(self, deadline: float, workflows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return await asyncio.gather(*(outcome(self.execute(deadline, **start)) for start in workflows))

    async def cancel(self, deadline: float, workflow_id: str, run_id: str | None = None) -> None:
        await self.handle(workflow_id, run_id).cancel(rpc_timeout=seconds(remaining(deadline)))

    async def terminate(
        self, deadline: float, workflow_id: str, run_id: str | None = None, reason: str | None = None
    ) -> None:
        await self.handle(workflow_id, run_id).terminate(reason=reason, rpc_timeout=seconds(remaining(deadline)))

    async def signal(
        self,
        deadline: float,
        workflow_id: str,
        name: str,
        run_id: str | None = None,
        input: Any = NOTHING,
        inputs: list[Any] | None = None,
        payloads: list[dict[str, Any]] | None = None,
    ) -> None:
        await self.handle(workflow_id, run_id).signal(
            name, args=arguments(input, inputs, payloads), rpc_timeout=seconds(remaining(deadline))
        )

    async def query(
        self,
        deadline: float,
        workflow_id: str,
        name: str,
        run_id: str | None = None,
        input: Any = NOTHING,
        inputs: list[Any] | None = None,
        payloads: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        answer = await self.handle(workflow_id, run_id).query(
            name, args=arguments(input, inputs, payloads), rpc_timeout=seconds(remaining(deadline))
        )
        return {"result": answer}

    async def update(
        self,
        deadline: float,
        workflow_id: str,
        name: str,
        run_id: str | None = None,
        update_id: str | None = None,
        input: Any = NOTHING,
        inputs: list[Any] | None = None,
        payloads: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        answer = await self.handle(workflow_id, run_id).execute_update(
            name,
            args=arguments(input, inputs, payloads),
            id=update_id,
            rpc_timeout=seconds(remaining(deadline)),
        )
        return {"result": answer}

    async def describe(self, deadline: float, workflow_id: str, run_id: str | None = None) -> dict[str, Any]:
        description = await self.handle(workflow_id, run_id).describe(rpc_timeout=seconds(remaining(deadline)))
        raw = plain(description.raw_description)
        info = raw["workflow_execution_info"]
        return {
            "status": description.status.name if description.status else None,
            "run_id": description.run_id,
            "history_length": description.history_length,
            "pending_activities": raw.get("pending_activities", []),
            "pending_workflow_task": raw.get("pending_workflow_task"),
            "info": info,
        }

    async def events(self, workflow_id: str, run_id: str | None) -> list[Any]:
        return list((await self.handle(workflow_id, run_id).fetch_history()).events)

    async def history(self, deadline: float, workflow_id: str, run_id: str | None = None) -> list[dict[str, Any]]:
        told = []
        for event in await self.events(workflow_id, run_id):
            fields = plain(event)
            attributes = event.WhichOneof("attributes")
            told.append(
                {
                    "event_id": event.event_id,
                    "event_time": fields.get("event_time"),
                    "event_type": fields["event_type"].removeprefix("EVENT_TYPE_"),
                    "attributes": fields.get(attributes, {}) if attributes else {},
                }
            )
        return told

    async def history_bytes(
        self, deadline: float, workflow_id: str, run_id: str | None = None, path: str | None = None
    ) -> dict[str, Any]:
        events = await self.events(workflow_id, run_id)
        data = History(events=events).SerializeToString(deterministic=True)
        told: dict[str, Any] = {"events": len(events), "bytes": len(data)}
        if path is None:
            return told | {"base64": base64.b64encode(data).decode()}
        with open(path, "wb") as file:
            file.write(data)
        return told

    async def pollers(self, deadline: float, task_queue: str) -> dict[str, Any]:
        told = {}
        for kind in ("workflow", "activity"):
            description = await self.client.workflow_service.describe_task_queue(
                DescribeTaskQueueRequest(
                    namespace=self.namespace,
                    task_queue=TaskQueue(name=task_queue),
                    task_queue_type=TaskQueueType.Value("TASK_QUEUE_TYPE_" + kind.upper()),
                ),
                timeout=seconds(remaining(deadline)),
            )
            told[kind] = [plain(poller) for poller in description.pollers]
        return told

    # Without cron expressions a schedule acts only when triggered.
    async def create_schedule(
        self,
        deadline: float,
        schedule_id: str,
        type: str,
        task_queue: str,
        workflow_id: str,
        input: Any = NOTHING,
        inputs: list[Any] | None = None,
        payloads: list[dict[str, Any]] | None = None,
        task_timeout: float | None = None,
        cron_expressions: list[str] | None = None,
    ) -> None:
        action = ScheduleActionStartWorkflow(
            type,
            args=arguments(input, inputs, payloads),
            id=workflow_id,
            task_queue=task_queue,
            task_timeout=seconds(task_timeout),
        )
        await self.client.create_schedule(
            schedule_id,
            Schedule(action=action, spec=ScheduleSpec(cron_expressions=cron_expressions or [])),
            rpc_timeout=seconds(remaining(deadline)),
        )

    async def trigger_schedule(self, deadline: float, schedule_id: str) -> dict[str, Any]:
        handle = self.client.get_schedule_handle(schedule_id)
        before = (await handle.describe()).info.num_actions
        await handle.trigger(overlap=ScheduleOverlapPolicy.ALLOW_ALL, rpc_timeout=seconds(remaining(deadline)))
        while True:
            info = (await handle.describe()).info
            if info.num_actions > before and info.recent_actions:
                action = info.recent_actions[-1].action
                assert isinstance(action, ScheduleActionExecutionStartWorkflow)
                return {"workflow_id": action.workflow_id, "run_id": action.first_execution_run_id}
            await asyncio.sleep(0.1)

    async def delete_schedule(self, deadline: float, schedule_id: str) -> None:
        await self.client.get_schedule_handle(schedule_id).delete(rpc_timeout=seconds(remaining(deadline)))

    async def start_worker(self, deadline: float, task_queue: str, only: list[str] | None = None) -> None:
        # not needed, thus not loaded, by most tests
        import peer_worker

        if task_queue in self.workers:
            raise ValueError(f"a worker of {task_queue} is running")
        # a worker takes no lazy client
        client = await self.new_client(lazy=False)
        worker = peer_worker.make(client, task_queue, only)
        await worker.__aenter__()
        self.workers[task_queue] = worker

    async def stop_worker(self, deadline: float, task_queue: str) -> None:
        await self.workers.pop(task_queue).__aexit__(None, None, None)

    async def sign_in(self, deadline: float, authorization: str | None = None) -> None:
        self.metadata = metadata_of(authorization)
        self.client.rpc_metadata = self.metadata

    async def healthy(self, deadline: float) -> bool:
        return await self.client.service_client.check_health(timeout=seconds(remaining(deadline)))

    # A namespace is there for a while before every service knows it.
    async def make_namespace(self, deadline: float, name: str) -> None:
        service = self.client.workflow_service
        await service.register_namespace(
            RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=Duration(seconds=86400)),
            timeout=seconds(remaining(deadline)),
        )
        while True:
            try:
                await service.list_workflow_executions(
                    ListWorkflowExecutionsRequest(namespace=name, page_size=1), timeout=seconds(remaining(deadline))
                )
                await service.describe_task_queue(
                    DescribeTaskQueueRequest(namespace=name, task_queue=TaskQueue(name="none")),
                    timeout=seconds(remaining(deadline)),
                )
                await service.describe_workflow_execution(
                    DescribeWorkflowExecutionRequest(namespace=name, execution=WorkflowExecution(workflow_id="none")),
                    timeout=seconds(remaining(deadline)),
                )
            except RPCError as error:
                if error.status == RPCStatusCode.NOT_FOUND and error.message.startswith("workflow not found"):
                    return
                if error.status not in (*AWAY, RPCStatusCode.NOT_FOUND):
                    raise
            await asyncio.sleep(0.1)

    async def stop_workers(self) -> None:
        for task_queue in list(self.workers):
            await self.stop_worker(0, task_queue)


def tls_of(
    ca: str | None = None, cert: str | None = None, key: str | None = None, server_name: str | None = None
) -> TLSConfig | bool:
    def contents(path: str | None) -> bytes | None:
        return Path(path).read_bytes() if path else None

    if not ca:
        return False
    return TLSConfig(
        server_root_ca_cert=contents(ca),
        client_cert=contents(cert),
        client_private_key=contents(key),
        domain=server_name,
    )


def metadata_of(authorization: str | None) -> dict[str, str | bytes]:
    return {} if authorization is None else {"authorization": authorization}


def remaining(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise RequestTimeout("the time of the request is over")
    return left


async def outcome(call: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    try:
        return await call
    except Exception as error:
        return {"error": error_of(error)}


# ---------------------------------------------------------------- requests


async def answer(operations: Operations, request: dict[str, Any]) -> dict[str, Any]:
    op, timeout, given = request["op"], request["timeout"], request.get("args", {})
    deadline = time.monotonic() + timeout
    try:
        method = getattr(operations, op, None)
        if not method or "deadline" not in inspect.signature(method).parameters:
            raise ValueError(f"no operation {op}")

        # The operations heed the deadline; this is for one that hangs all the
        # same, and later so that it hides no better error.
        try:
            async with asyncio.timeout(timeout + GRACE):
                call = method(deadline, **given)
                value = await (outcome(call) if op in operations.outcomes else call)
        except TimeoutError as error:
            raise RequestTimeout(f"{op} was not done within {timeout} s") from error
    except Exception as error:
        if op in operations.outcomes:
            return {"id": request["id"], "value": {"error": error_of(error)}}
        return {"id": request["id"], "error": error_of(error)}
    return {"id": request["id"], "value": value}


def start_writer() -> tuple[Callable[[dict[str, Any]], None], Callable[[], None]]:
    """Answers are written by a thread: a test that is busy writing does not
    read, and would wait for ever for a driver that waits for it."""
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    # Temporal's library prints its log to standard output, which is for answers.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def write() -> None:
        while (line := lines.get()) is not None:
            try:
                out.write(line)
                out.flush()
            except BrokenPipeError:
                return

    thread = threading.Thread(target=write, daemon=True)
    thread.start()

    def send(value: dict[str, Any]) -> None:
        try:
            text = json.dumps(value)
        except (TypeError, ValueError) as error:
            text = json.dumps({"id": value["id"], "error": error_of(error)})
        lines.put(text.encode() + b"\n")

    def finish() -> None:
        lines.put(None)
        thread.join(5)

    return send, finish


async def main(address: str, namespace: str, sign_in: str = "{}") -> None:
    operations = Operations(address, namespace, json.loads(sign_in))
    await operations.connect()
    send, finish = start_writer()
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()

    async def serve(request: dict[str, Any]) -> None:
        send(await answer(operations, request))

    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        task = loop.create_task(serve(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)

    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await operations.stop_workers()
    finish()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(main(*sys.argv[1:]))
