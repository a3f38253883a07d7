"""Messages over Flower: records, checks, the device's app, grids and engines."""
