"""Examples of the line on public data, each a folder with a ``params.yaml`` of what differs from the defaults."""
