"""The tasks of this service. A new one is a folder beside this file and a line here."""

from __future__ import annotations

from service.tasks import classification, image_generation, style_transfer, text_generation
from service.tasks.task import Task

TASKS: tuple[Task, ...] = (
    classification.TASK,
    style_transfer.TASK,
    text_generation.TASK,
    image_generation.TASK,
)
BY_NAME = {task.name: task for task in TASKS}
