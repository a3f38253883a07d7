"""Models on microcontrollers: run in TensorFlow Lite Micro, and written as C sources with a card."""

from fedprune.export.microcontroller.interpreter import run

__all__ = ["run"]
