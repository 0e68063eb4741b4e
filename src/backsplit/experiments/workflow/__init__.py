"""Snakemake, and what starts and watches it."""
