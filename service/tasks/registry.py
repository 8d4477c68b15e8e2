"""The tasks of the service. To add one, add a folder beside this file and a line here.

The line names the folder and the task's `hotplate` command. Tasks are imported on first use, so that the command line
starts fast.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.tasks.task import Task

FOLDERS: dict[str, str] = {
    "classification": "service.cli.predict:predict",
    "style_transfer": "service.cli.stylize:stylize",
    "text_generation": "service.cli.complete:complete",
    "text_embedding": "service.cli.embed:embed",
    "text_correction": "service.cli.correct:correct",
    "image_generation": "service.cli.generate:generate",
}


@cache
def all_tasks() -> dict[str, Task]:
    """All tasks by name, as in manifests."""
    tasks: list[Task] = [import_module(f"service.tasks.{folder}").TASK for folder in FOLDERS]
    return {task.name: task for task in tasks}
