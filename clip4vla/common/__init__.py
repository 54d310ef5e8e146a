"""What every room uses: errors, files, console, progress, devices, seeds and provenance."""
