"""Data sets as they are downloaded, turned into cohorts: one converter per module, each with a function `convert`.

A converter reads headers and checks; it neither copies voxels nor writes.
"""
