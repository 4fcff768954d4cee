"""What a verdict needs besides the network: decoding, views, calibration, labels. Imports NumPy and Pillow."""
