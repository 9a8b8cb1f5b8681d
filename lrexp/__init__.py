"""Which learning-rate policy should I use, by how much is it better, and does it overfit?"""

__version__ = "0.1.0"
