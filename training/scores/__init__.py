"""Scores: how good a trained network is, measured on data that it was not trained on."""
