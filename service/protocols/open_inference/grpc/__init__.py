"""The Open Inference Protocol over gRPC, on a port of its own."""

from __future__ import annotations

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
"""Where the generated messages register: in the default pool their names would clash with those of Triton's client."""
