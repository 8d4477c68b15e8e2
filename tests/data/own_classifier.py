"""An image classifier of one's own, from PyTorch to ONNX files that take batches, by both exporters."""

from pathlib import Path

import torch
from torch import nn

torch.manual_seed(0)
network = nn.Sequential(
    *(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
).eval()
example = torch.rand(2, 3, 96, 96)  # two rows: with one, the exporter may take the batch for a constant
Path("labels.txt").write_text("daisy\nrose\ntulip\n")

# The exporter of torch.export: `dynamic_shapes` opens the first axis.
batch = torch.export.Dim("batch")
torch.onnx.export(network, (example,), "flowers.onnx", dynamic_shapes=({0: batch},), external_data=False)

# The older exporter, which traces: `dynamic_axes` does the same.
names = {"input_names": ["image"], "output_names": ["scores"]}
axes = {"image": {0: "batch"}, "scores": {0: "batch"}}
torch.onnx.export(network, (example,), "flowers-traced.onnx", dynamo=False, dynamic_axes=axes, **names)
