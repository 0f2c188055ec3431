"""Where images for training and measurement come from: pairs on disk and a physical low-light simulator."""
