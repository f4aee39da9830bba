"""A worker on Temporal's own Python library, beside the one under test.

With it the driver proves itself, and a test has what it may need on a task
queue: another agent, which knows workflow types that ours does not.
"""

from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker


@workflow.defn(name="peerEcho")
class Echo:
    """Answers its input."""

    @workflow.run
    async def run(self, value: Any = None) -> Any:
        return value


@workflow.defn(name="peerFail")
class Fail:
    """Fails as its input {"type", "message", "nonRetryable"} says, with a cause."""

    @workflow.run
    async def run(self, how: dict[str, Any]) -> None:
        try:
            raise ApplicationError("the root", type="Root")
        except ApplicationError as cause:
            raise ApplicationError(
                how["message"], {"seen": True}, type=how["type"], non_retryable=how["nonRetryable"]
            ) from cause


@workflow.defn(name="peerWait")
class Wait:
    """Waits for signal "finish" and answers what that brings. Query "status"
    and update "add" show and change what it has."""

    def __init__(self) -> None:
        self.total = 0
        self.finished: list[Any] = []

    @workflow.run
    async def run(self) -> Any:
        await workflow.wait_condition(lambda: bool(self.finished))
        return self.finished[0]

    @workflow.signal
    def finish(self, value: Any) -> None:
        self.finished.append(value)

    @workflow.query
    def status(self) -> dict[str, Any]:
        return {"total": self.total}

    @workflow.update
    def add(self, amount: int) -> int:
        self.total += amount
        return self.total

    @add.validator
    def check_add(self, amount: int) -> None:
        if amount < 0:
            raise ApplicationError("not less than nothing", type="Negative")


@activity.defn(name="peerAttempt")
async def attempt(fail_until: int) -> int:
    number = activity.info().attempt
    if number < fail_until:
        raise ApplicationError(f"attempt {number}", type="NotYet")
    return number


@workflow.defn(name="peerActivity")
class Activity:
    """Runs an activity that fails until attempt number {"failUntil"}, at most {"attempts"} times."""

    @workflow.run
    async def run(self, how: dict[str, Any]) -> int:
        return await workflow.execute_activity(
            attempt,
            how["failUntil"],
            start_to_close_timeout=timedelta(seconds=60),
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=how.get("interval", 0.1)),
                maximum_attempts=how.get("attempts", 0),
            ),
        )


@workflow.defn(name="peerCall")
class Call:
    """Runs {"activity"} of the workers of {"taskQueue"} with {"input"}, at
    most {"attempts"} times, as activity {"id"}, and answers its result. A
    cancel request is handed on, and its end is waited for."""

    @workflow.run
    async def run(self, how: dict[str, Any]) -> Any:
        return await workflow.execute_activity(
            how["activity"],
            args=[how["input"]] if "input" in how else [],
            activity_id=how.get("id"),
            task_queue=how["taskQueue"],
            start_to_close_timeout=timedelta(seconds=60),
            heartbeat_timeout=timedelta(seconds=10),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=0.1), maximum_attempts=how.get("attempts", 1)
            ),
        )


WORKFLOWS: dict[str, Any] = {
    "peerEcho": Echo,
    "peerFail": Fail,
    "peerWait": Wait,
    "peerActivity": Activity,
    "peerCall": Call,
}


def make(client: Client, task_queue: str, only: list[str] | None) -> Worker:
    """A worker of that queue; "only" names the workflow types that it knows."""
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[WORKFLOWS[name] for name in (only or WORKFLOWS)],
        activities=[attempt],
        workflow_runner=UnsandboxedWorkflowRunner(),
        graceful_shutdown_timeout=timedelta(0),
    )
