"""Run machine-learning models on the device that holds the camera or the sensor."""

__version__ = "0.1.0"
