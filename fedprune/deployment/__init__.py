"""A fleet of real devices: a folder that holds all of a server, devices that join it, runs over it, and its state."""
