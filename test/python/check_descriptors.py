"""Compare our protobuf declarations with Temporal's own, in the temporalio package.

    check_descriptors.py FILE.proto

FILE declares parts of official messages and enums under names of its own. The
comment before each must hold the official name on a line of its own. Every
field must have the number, the name, the type and the label of an official one,
a oneof its members of one official oneof, every enum value its number and name.
Official maps are declared as what they are on the wire, repeated entries.

Prints TAP, one line for each message and enum; exits with 1 if anything differs.
"""

import contextlib
import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, timestamp_pb2  # noqa: F401
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

OFFICIAL_NAME = re.compile(r"^\s*((?:temporal\.api|google\.protobuf)\.[A-Za-z0-9_.]+)\s*$", re.MULTILINE)

# Field numbers of descriptor.proto, of which the paths of comments are made.
FILE_MESSAGE, FILE_ENUM, MESSAGE_MESSAGE, MESSAGE_ENUM = 4, 5, 3, 4

TYPE_NAMES: dict[int, str] = {
    number: name.removeprefix("TYPE_").lower() for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()
}

Message = descriptor_pb2.DescriptorProto
Enum = descriptor_pb2.EnumDescriptorProto
Declared = Iterator[tuple[str, tuple[int, ...], Message | Enum]]


def parse(proto: Path) -> descriptor_pb2.FileDescriptorProto:
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run(
            [
                "protoc",
                f"--proto_path={proto.parent}",
                "--include_source_info",
                f"--descriptor_set_out={out.name}",
                proto.name,
            ],
            check=True,
        )
        files = descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes()).file
    # imports are not looked into: what they declare would go unseen
    if len(files) != 1 or files[0].dependency:
        raise SystemExit(f"{proto} imports other files")
    return files[0]


def declared(file: descriptor_pb2.FileDescriptorProto) -> Declared:
    """Every message and enum with its name, and its path in the file."""

    def inside(prefix: str, path: tuple[int, ...], message: Message) -> Declared:
        for i, nested in enumerate(message.nested_type):
            name, here = f"{prefix}.{nested.name}", (*path, MESSAGE_MESSAGE, i)
            yield name, here, nested
            yield from inside(name, here, nested)
        for i, enum in enumerate(message.enum_type):
            yield f"{prefix}.{enum.name}", (*path, MESSAGE_ENUM, i), enum

    root = f".{file.package}" if file.package else ""
    for i, message in enumerate(file.message_type):
        name = f"{root}.{message.name}"
        yield name, (FILE_MESSAGE, i), message
        yield from inside(name, (FILE_MESSAGE, i), message)
    for i, enum in enumerate(file.enum_type):
        yield f"{root}.{enum.name}", (FILE_ENUM, i), enum


def official_names(file: descriptor_pb2.FileDescriptorProto) -> dict[tuple[int, ...], list[str]]:
    return {
        tuple(location.path): OFFICIAL_NAME.findall(location.leading_comments)
        for location in file.source_code_info.location
    }


def load_official(names: Iterable[str]) -> descriptor_pool.DescriptorPool:
    """The pool holds what has been imported: temporal.api.common.v1.Payload
    comes with module temporalio.api.common.v1."""
    for package in {found[1] for name in names if (found := re.match(r"temporal(\.api(?:\.[a-z]\w*)+)\.", name))}:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(f"temporalio{package}")
    return descriptor_pool.Default()


def compare_message(ours: Message, theirs: Descriptor, official: dict[str, str]) -> Iterator[str]:
    # ours -> theirs
    oneofs: dict[str, str] = {}

    for field in ours.field:
        where = f"{field.name} = {field.number}"
        other: FieldDescriptor | None = theirs.fields_by_number.get(field.number)
        if other is None:
            yield f"{where}: the official message has no such number"
            continue
        if field.name != other.name:
            yield f"{where}: is officially {other.name}"
        if field.type != other.type:
            yield f"{where}: is {TYPE_NAMES[field.type]}, officially {TYPE_NAMES[other.type]}"
        repeated = field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
        if repeated != other.is_repeated:
            yield f"{where}: is {'repeated, officially not' if repeated else 'not repeated, officially so'}"

        kind = other.message_type or other.enum_type
        if kind is not None and field.type_name and official.get(field.type_name) != kind.full_name:
            yield f"{where}: is of {official.get(field.type_name)}, officially of {kind.full_name}"

        # of proto3, "optional" makes a oneof too
        if field.HasField("oneof_index") and not field.proto3_optional:
            oneof = ours.oneof_decl[field.oneof_index].name
            their_oneof = other.containing_oneof.name if other.containing_oneof else None
            if their_oneof is None:
                yield f"{where}: is in oneof {oneof}, officially in none"
            elif oneofs.setdefault(oneof, their_oneof) != their_oneof:
                yield f"{where}: is in oneof {oneof}, officially not with the others of it"


def compare_enum(ours: Enum, theirs: EnumDescriptor) -> Iterator[str]:
    for value in ours.value:
        other = theirs.values_by_number.get(value.number)
        if other is None:
            yield f"{value.name} = {value.number}: the official enum has no such number"
        elif other.name != value.name:
            yield f"{value.name} = {value.number}: is officially {other.name}"


def compare(
    ours: Message | Enum, name: str | None, official: dict[str, str], pool: descriptor_pool.DescriptorPool
) -> Iterator[str]:
    if name is None:
        yield "the comment before it does not hold one official name on a line of its own"
        return
    try:
        if isinstance(ours, Message):
            yield from compare_message(ours, pool.FindMessageTypeByName(name), official)
        else:
            yield from compare_enum(ours, pool.FindEnumTypeByName(name))
    except KeyError:
        yield f"there is no official {name}"


def main(proto: str) -> int:
    file = parse(Path(proto))
    comments = official_names(file)
    everything = list(declared(file))
    official = {name: found[0] for name, path, _ in everything if len(found := comments.get(path, [])) == 1}
    pool = load_official(official.values())
    failed = 0

    if file.syntax != "proto3" or not everything:
        print("Bail out! not a proto3 file with messages")
        return 1
    print(f"1..{len(everything)}")
    for number, (name, _, ours) in enumerate(everything, 1):
        different = list(compare(ours, official.get(name), official, pool))
        count = len(ours.field if isinstance(ours, Message) else ours.value)
        what = f"{count} {'fields' if isinstance(ours, Message) else 'values'} as official"
        print(f"{'not ok' if different else 'ok'} {number} - {name.lstrip('.')}: {official.get(name)}, {what}")
        for text in different:
            print(f"#   {text}")
        failed += bool(different)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
