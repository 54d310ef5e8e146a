"""Modules that every room uses: errors, log, files, console, progress, device, provenance."""
