"""The devices as a Flower app, and their deployment kits."""
