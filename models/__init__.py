"""The detector: vision tower, prototype head, LoRA, and their files."""
