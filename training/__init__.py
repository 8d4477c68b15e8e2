"""Training: data, networks, loops and export; the only side that imports torch. It never imports `service`."""
