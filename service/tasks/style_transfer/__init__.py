"""Style transfer: a photograph in the manner of a painting, of any size, in tiles that agree."""

from __future__ import annotations

from service.tasks.style_transfer.routes import Styles, Stylize
from service.tasks.task import Task

TASK = Task(
    name="style-transfer",
    graphs=("model",),
    routes=(Stylize, Styles),
    takes_images=True,
    page="stylize",
)
