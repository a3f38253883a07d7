"""What a .tflite holds: operators, bytes, memory."""
