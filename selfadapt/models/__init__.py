"""Models and adapters: architecture, parameters, files."""
