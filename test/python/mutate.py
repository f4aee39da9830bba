"""Make hostile messages out of good ones, for test/t/065_hostile_bytes.pl.

    mutate.py SEED COUNT FILE...

FILEs are recorded histories (test/histories). Prints COUNT lines for COPY: the
type of a message, and bytes that a server could send for it. The same arguments
give the same lines. One of sixteen is left as it was, so that what comes behind
the decoder is reached, too.
"""

import base64
import random
import sys
from collections.abc import Callable
from pathlib import Path

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from temporalio.api.history.v1 import History
from temporalio.api.workflowservice.v1 import PollActivityTaskQueueResponse, PollWorkflowTaskQueueResponse

# Numbers at which something may overflow, as varints.
EDGES = [
    bytes.fromhex(varint)
    for varint in (
        "00",
        "01",
        "7f",
        "8001",
        "ffff03",
        "ffffffff07",
        "8080808008",
        "ffffffff0f",
        "8080808010",
        "ffffffffffffffff7f",
        "80808080808080808001",
        "ffffffffffffffffff01",
        "ffffffffffffffffff7f",
    )
]
TEXTS = ["", "x", "id", "a\0b", "\u202e", "\x1b[2J", "ä" * 50, "opdata_step", "opdata_patch", "one", "storeCreds"]
LARGE = 4096

# A field on the wire: its tag, and its value (with the length in front).
Field = tuple[bytes, bytes]


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def take_varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise IndexError


def fields(data: bytes) -> list[Field] | None:
    """The fields of a message; None if these bytes are none."""
    found: list[Field] = []
    at = 0
    try:
        while at < len(data):
            tag, value = take_varint(data, at)
            match tag & 7:
                case 0:
                    _, end = take_varint(data, value)
                case 1:
                    end = value + 8
                case 2:
                    length, start = take_varint(data, value)
                    end = start + length
                case 5:
                    end = value + 4
                case _:
                    return None
            if tag >> 3 == 0 or end > len(data):
                return None
            found.append((data[at:value], data[value:end]))
            at = end
    except IndexError:
        return None
    return found


def filled(rng: random.Random, message: Message, depth: int = 5) -> Message:
    """Set about half of what a message can have."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.5 or (depth == 0 and field.message_type):
            continue
        for _ in range(rng.randint(1, 3) if field.is_repeated else 1):
            set_field(rng, message, field, depth)
    return message


def set_field(rng: random.Random, message: Message, field: FieldDescriptor, depth: int) -> None:
    mapped = field.message_type and field.message_type.GetOptions().map_entry
    if mapped:
        key = rng.choice(TEXTS) if field.message_type.fields_by_name["key"].type == field.TYPE_STRING else rng.randint(0, 9)
        value = field.message_type.fields_by_name["value"]
        if value.message_type:
            filled(rng, getattr(message, field.name)[key], depth - 1)
        else:
            getattr(message, field.name)[key] = scalar(rng, value)
    elif field.message_type:
        part = getattr(message, field.name)
        part = part.add() if field.is_repeated else part
        part.SetInParent()
        filled(rng, part, depth - 1)
    elif field.is_repeated:
        getattr(message, field.name).append(scalar(rng, field))
    else:
        setattr(message, field.name, scalar(rng, field))


def scalar(rng: random.Random, field: FieldDescriptor) -> object:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            text = rng.choice(TEXTS)
            return text if field.type == FieldDescriptor.TYPE_STRING else text.encode()
        case FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            return rng.choice(field.enum_type.values).number
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return rng.choice([0.0, -1.5, 1e30, float("inf"), float("nan")])
        case FieldDescriptor.CPPTYPE_INT32:
            return rng.choice([0, 1, 7, -1, 2**31 - 1, -(2**31)])
        case FieldDescriptor.CPPTYPE_INT64:
            return rng.choice([0, 1, 5, -1, 2**63 - 1, -(2**63)])
        case _:
            return rng.randint(0, 2**31)


def bits(rng: random.Random, data: bytearray) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def edge(rng: random.Random, data: bytearray) -> bytes:
    at = rng.randrange(len(data) + 1)
    value = rng.choice(EDGES)
    data[at : at + rng.choice((0, 1, len(value)))] = value
    return bytes(data)


def cut(rng: random.Random, data: bytearray) -> bytes:
    return bytes(data[: rng.randrange(len(data) + 1)])


def remove(rng: random.Random, data: bytearray) -> bytes:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.randint(1, 16)]
    return bytes(data)


def repeat(rng: random.Random, data: bytearray) -> bytes:
    at = rng.randrange(len(data) + 1)
    part = bytes(data[at : at + rng.randint(1, 64)])
    data[at:at] = part * rng.choice((1, 2, 50))
    return bytes(data[: 16 * LARGE])


def noise(rng: random.Random, data: bytearray) -> bytes:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.randint(1, 32))
    return bytes(data)


def structure(rng: random.Random, data: bytearray) -> bytes:
    """Change one field, somewhere, in a way that keeps the rest well formed."""
    here = fields(bytes(data))
    if not here:
        return noise(rng, data)
    at = rng.randrange(len(here))
    tag, value = here[at]
    number, _ = take_varint(tag, 0)

    # go inside for as long as it is a message
    if number & 7 == 2 and rng.random() < 0.7:
        length, start = take_varint(value, 0)
        if length and fields(value[start:]):
            inner = structure(rng, bytearray(value[start:]))
            here[at] = (tag, varint(len(inner)) + inner)
            return b"".join(map(b"".join, here))

    match rng.randrange(8):
        case 0:
            del here[at]
        case 1:
            here[at:at] = [here[at]] * rng.choice((1, 2, 100))
        case 2:
            here.insert(rng.randrange(len(here)), here.pop(at))
        case 3:  # another number of the same kind of value
            here[at] = (varint(rng.randint(1, 40) << 3 | number & 7), value)
        case 4:  # another kind of value
            here[at] = (varint(number & ~7 | rng.randrange(8)), value)
        case 5:
            here[at] = (tag, rng.choice(EDGES))
        case 6:  # more text than expected
            text = rng.choice(TEXTS).encode() * rng.choice((1, 1, 100))
            here[at] = (varint(number & ~7 | 2), varint(len(text)) + text)
        case 7:  # one inside itself
            for _ in range(rng.choice((1, 10, 200))):
                value = varint(len(tag) + len(value)) + tag + value
            here[at] = (varint(number & ~7 | 2), value)
    return b"".join(map(b"".join, here))[: 16 * LARGE]


MUTATIONS: list[Callable[[random.Random, bytearray], bytes]] = [
    bits,
    edge,
    cut,
    remove,
    repeat,
    noise,
    structure,
    structure,
    structure,
    structure,
]


def good_messages(rng: random.Random, files: list[str]) -> list[tuple[str, bytes]]:
    good: list[tuple[str, bytes]] = []

    def add(message: Message) -> None:
        good.append((type(message).__name__, message.SerializeToString(deterministic=True)))

    for file in files:
        history = History.FromString(base64.b64decode(Path(file).read_text().split("\n", 1)[1]))
        for n, event in enumerate(history.events, 1):
            if event.HasField("workflow_task_started_event_attributes"):
                prefix = History(events=history.events[:n])
                add(prefix)
                task = PollWorkflowTaskQueueResponse(task_token=b"token", history=prefix, attempt=1)
                task.queries["q"].query_type = "status"
                add(task)
        started = history.events[0].workflow_execution_started_event_attributes
        add(PollActivityTaskQueueResponse(task_token=b"token", activity_id="storeCreds", input=started.input, attempt=1))
    for _ in range(40):
        add(filled(rng, History()))
        add(filled(rng, PollWorkflowTaskQueueResponse()))
        add(filled(rng, PollActivityTaskQueueResponse()))
    return good


def main(seed: str, count: str, *files: str) -> None:
    rng = random.Random(seed)
    good = good_messages(rng, sorted(files))
    for n in range(int(count)):
        name, data = rng.choice(good)
        if n % 16:
            for _ in range(rng.choice((1, 1, 1, 2, 4))):
                data = rng.choice(MUTATIONS)(rng, bytearray(data))
        print(f"{name}\t\\\\x{data.hex()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
