"""Where the generated messages register themselves: a pool of this service alone.

In the pool that a process has by default, they would clash with those of Triton's and KServe's clients, which have the
same names.
"""

from __future__ import annotations

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
