"""Scores of trained models, and the sheets and tables that show them."""
