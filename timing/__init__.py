"""Measurements of speed, memory and interruptions. Each file is a command."""
