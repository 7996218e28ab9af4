"""Instruments behind vendors' control systems: one a module, from plain options, imported when it is used."""

__all__: list[str] = []
