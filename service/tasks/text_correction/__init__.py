"""Text correction: texts without their slips of spelling, and where the network looked as it wrote each character."""

from __future__ import annotations

from service.tasks.task import Task
from service.tasks.text_correction.routes import Correct

TASK = Task(name="text-correction", graphs=("correct", "align"), routes=(Correct,), page="correct")
