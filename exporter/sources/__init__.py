"""Where readings come from: one file, one source.

A source is an object with a ``name`` and a ``read()`` that returns frozen facts of `advisor.readings` or raises
`exporter.errors.SourceError`. The outside world (NVML library, HTTP connection, process table, file system) is an
argument of its constructor, and what it read is turned into facts by pure ``parse_`` functions.
"""
