"""Models as files that run elsewhere: `.tflite` for LiteRT, C sources for microcontrollers."""
