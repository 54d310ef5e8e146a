"""Estimates of the cost of a plan: GPU hours, disk, downloads."""
