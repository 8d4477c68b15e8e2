"""The tasks of this service. A new one is a folder beside this file and its name here."""

from __future__ import annotations

from importlib import import_module

from service.tasks.task import Task

FOLDERS = (
    "classification",
    "style_transfer",
    "text_generation",
    "image_generation",
)

TASKS: tuple[Task, ...] = tuple(import_module(f"service.tasks.{folder}").TASK for folder in FOLDERS)
BY_NAME = {task.name: task for task in TASKS}
