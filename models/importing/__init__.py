"""Import: a stranger's network becomes a version folder. Needs `onnx`; knows neither HTTP nor torch."""
