"""Data sets as they are downloaded, turned into cohorts.

`download` says what a converter is, `conversion` runs one; each further module is the converter of one data set.
"""
