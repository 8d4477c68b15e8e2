"""A network of one's own, from PyTorch to a folder that the service loads."""

from pathlib import Path

import torch

network = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3), torch.nn.Softmax(1))
file = Path("my-models/iris/1/model.onnx")
file.parent.mkdir(parents=True, exist_ok=True)
torch.onnx.export(
    network,
    (torch.rand(2, 4),),
    file,
    input_names=["features"],
    output_names=["probabilities"],
    dynamic_shapes=({0: torch.export.Dim("batch")},),  # an open first axis: requests may share a batch
    external_data=False,
)
