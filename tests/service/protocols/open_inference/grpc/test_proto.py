"""The messages are those that the protocol's clients know, and the generated modules are those of the source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import service_pb2 as theirs

from service.protocols.open_inference.grpc import generate
from service.protocols.open_inference.grpc import open_inference_pb2 as ours
from service.protocols.open_inference.grpc.methods import NAME

# Parts of Triton's model configuration that this service never tells; absent, a client reads them as empty.
LEFT_OUT = {
    "inference.ModelConfig": {
        "batch_input",
        "batch_output",
        "ensemble_scheduling",
        "model_metrics",
        "model_operations",
        "model_repository_agents",
        "model_warmup",
        "optimization",
        "sequence_batching",
    },
    "inference.ModelInstanceGroup": {"rate_limiter", "secondary_devices"},
}


def messages(file: Any) -> Iterator[Any]:
    """All messages of a file, also nested ones."""
    waiting = list(file.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        yield message
        waiting += message.nested_types


def enums(file: Any) -> Iterator[Any]:
    """All enumerations of a file, also nested ones."""
    yield from file.enum_types_by_name.values()
    for message in messages(file):
        yield from message.enum_types


def on_the_wire(field: Any) -> tuple[Any, ...]:
    """What decides how a field is written."""
    kind = field.message_type or field.enum_type
    choice = field.containing_oneof.name if field.containing_oneof else None
    return field.number, field.type, field.is_repeated, kind.full_name if kind else None, choice


def find(name: str) -> Any:
    """Triton's message or enumeration of this name."""
    pool = theirs.DESCRIPTOR.pool
    try:
        return pool.FindMessageTypeByName(name)
    except KeyError:
        return pool.FindEnumTypeByName(name)


@pytest.mark.parametrize("message", [*messages(ours.DESCRIPTOR)], ids=lambda message: message.full_name)
def test_a_message_has_the_fields_that_the_clients_write_and_read(message: Any) -> None:
    fields = {field.name: on_the_wire(field) for field in message.fields}
    known = {field.name: on_the_wire(field) for field in find(message.full_name).fields}

    assert known.keys() - fields.keys() == LEFT_OUT.get(message.full_name, set())
    assert fields == {name: known.get(name) for name in fields}
    assert message.GetOptions().map_entry == find(message.full_name).GetOptions().map_entry


@pytest.mark.parametrize("enum", [*enums(ours.DESCRIPTOR)], ids=lambda enum: enum.full_name)
def test_an_enumeration_has_the_values_that_the_clients_know(enum: Any) -> None:
    values = {value.name: value.number for value in enum.values}

    assert values == {value.name: value.number for value in find(enum.full_name).values}


def test_the_service_has_every_method_that_the_clients_call() -> None:
    def methods(service: Any) -> dict[str, tuple[Any, ...]]:
        return {
            method.name: (
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            )
            for method in service.methods
        }

    known = methods(theirs.DESCRIPTOR.services_by_name["GRPCInferenceService"])

    assert methods(ours.DESCRIPTOR.services_by_name["GRPCInferenceService"]) == known
    assert ours.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name == NAME


def test_the_generated_modules_are_those_of_the_source(tmp_path: Path) -> None:
    for made in generate.generate(tmp_path):
        kept = generate.ROOT / made.relative_to(tmp_path)

        assert made.read_text() == kept.read_text(), f"{kept.name}: run make proto"
