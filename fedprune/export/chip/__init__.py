"""What a microcontroller gets, and what it costs there."""
