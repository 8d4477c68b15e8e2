"""Inverting an image: the smallest task that is whole."""

from __future__ import annotations

from service.tasks.invert.routes import Invert

from service.tasks.task import Task

TASK = Task(name="image-inversion", graphs=("model",), routes=(Invert,), takes_images=True)
