"""Server reflection over this service's own pool of messages, so that grpcurl and its like need no proto file."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.protocols.open_inference.grpc import open_inference_pb2


def enable_reflection(server: Any, services: tuple[str, ...]) -> None:
    """Add the reflection service to a server that has not started."""
    pool = DescriptorPool()
    for module in (open_inference_pb2, health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    reflection.enable_server_reflection((*services, reflection.SERVICE_NAME), server, pool=pool)
