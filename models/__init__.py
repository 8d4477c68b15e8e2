"""The contract between training and serving. It knows neither torch nor HTTP, only NumPy and Pillow."""
