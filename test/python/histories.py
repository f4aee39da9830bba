"""Turn workflow histories between JSON and protobuf, for Opdata::Engine.

One line of JSON on standard input is one request, one on standard output its
answer. Bytes are hexadecimal.

    {"op": "build", "events": [{"eventId": 1, "eventType": "...", ...}, ...]}
    {"op": "read", "bytes": "0a..."}
    {"op": "anonymous", "bytes": "0a..."}
    {"op": "message", "type": "PollWorkflowTaskQueueResponse", "json": {...}}

"build" and "read" answer {"pieces": [...], "events": [...]}: each piece is a
serialized temporal.api.history.v1.History that holds one of the events, so that
pieces joined are a History of them all; events are in the JSON of protobuf.
"anonymous" answers the same, without who did what from which machine.
"message" answers {"bytes": ...}; the type is one of the WorkflowService.
"""

import json
import sys
from typing import Any

import temporalio.api.workflowservice.v1 as service
from google.protobuf.json_format import MessageToDict, ParseDict
from temporalio.api.history.v1 import History


def told(history: History) -> dict[str, Any]:
    return {
        "pieces": [History(events=[event]).SerializeToString().hex() for event in history.events],
        "events": [MessageToDict(event) for event in history.events],
    }


def anonymous(history: History) -> History:
    for event in history.events:
        attributes = getattr(event, event.WhichOneof("attributes") or "", None)
        if getattr(attributes, "identity", ""):
            attributes.identity = "somebody"
    return history


def answer(request: dict[str, Any]) -> dict[str, Any]:
    match request["op"]:
        case "build":
            return told(ParseDict({"events": request["events"]}, History()))
        case "read":
            return told(History.FromString(bytes.fromhex(request["bytes"])))
        case "anonymous":
            return told(anonymous(History.FromString(bytes.fromhex(request["bytes"]))))
        case "message":
            message = getattr(service, request["type"])()
            return {"bytes": ParseDict(request["json"], message).SerializeToString().hex()}
    raise ValueError(f"unknown op {request['op']}")


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
