"""HTTP surfaces, one module each. They parse, await the engine and render; they know no batches."""
