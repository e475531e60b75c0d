"""Range scans at work: starts from them, depth for the photos, and how well both do on beams that were kept back."""
