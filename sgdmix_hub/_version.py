"""The version of this package."""

__version__ = "0.1.0"

# Format of what a generation publishes, in its manifest; a reader refuses a newer one. 2 added the
# columns source_width and source_height, the mark in every image, and the format itself.
FORMAT = 2

# A manifest whose long lists are in files beside it has this format instead.
LISTS_FORMAT = 3
