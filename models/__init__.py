"""The contract between training and serving. It knows neither torch nor HTTP: NumPy, Pillow and the standard library only."""
