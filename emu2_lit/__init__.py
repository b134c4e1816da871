"""Emu2 tuning kit: the network, its objectives and how a recipe runs."""

__version__ = "0.1.0"
