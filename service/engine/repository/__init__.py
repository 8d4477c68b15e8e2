"""Model versions: found, loaded, verified, served, unloaded."""
