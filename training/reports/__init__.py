"""The page that a run leaves behind, `report.md`, with its curves and pictures."""
