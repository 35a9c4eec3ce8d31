"""Everything that touches the world: sources, the collection loop, HTTP, commands."""
