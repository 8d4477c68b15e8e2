"""Style transfer: renders a photo of any size in the style of a painting, in seamless tiles."""

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
