"""The server as a Flower app, and its deployment kit."""
