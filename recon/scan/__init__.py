"""Range scans: rings, what a camera sees of them, and the classical ways to turn them into splats."""
