"""Model versions: found, loaded, verified, served and unloaded."""
