"""Export: a trained network becomes a version folder with ONNX graphs, golden rows and a manifest."""
