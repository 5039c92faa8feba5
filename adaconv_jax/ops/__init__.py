"""Pure functions of arrays; they know nothing of models, files or configs."""
