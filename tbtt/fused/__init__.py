"""A small model's whole training step as one C kernel: step.c, built by build.py, called by kernel.py."""
