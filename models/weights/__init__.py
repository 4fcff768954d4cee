"""Detector files and backbones: where weights come from and how they are stored."""
