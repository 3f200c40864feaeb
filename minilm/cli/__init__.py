"""Flags and commands."""
